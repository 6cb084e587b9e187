"""Mounts of another process, whatever their places are called."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_livemig import keptby
from docker_livemig.layerapply import _mount_points

pytestmark = pytest.mark.root

ODD = "caf\udce9 \\ é"
SCRIPT = 'mount -t tmpfs none "$1" && echo there && read -r line'


@pytest.fixture
def pid(tmp_path: Path) -> Iterator[int]:
    """Start a process with a mount of its own at a place with an odd name."""
    place = tmp_path / ODD
    place.mkdir()
    argv = ["unshare", "-m", "sh", "-c", SCRIPT, "sh", str(place)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"there\n"
        yield process.pid
        process.kill()


def test_one_that_was_made_inside_is_named(
    pid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keptby, "read_bundle", lambda _: {"mounts": []})
    found = list(keptby._mounts("c" * 64, pid))
    assert f"the mount at {tmp_path / ODD} (tmpfs), which was made inside it" in found
    assert f"{tmp_path / ODD}".lstrip("/") in _mount_points(pid)
