"""Whether a dockerd ends: it closes its socket first, whoever else has it (systemd(1)) too."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from docker_livemig import dockerd

# It has its parent's listening socket until it reads a line, and says how it stands.
HOLDER = """\
import os, sys
os.write(1, b"x")
sys.stdin.readline()
os.close(int(sys.argv[1]))
os.write(1, b"y")
sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{found}")
    return found


@contextmanager
def listening(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(place))
        found.listen()
        yield found


@contextmanager
def holder(shared: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", HOLDER, str(shared.fileno())]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        argv, bufsize=0, stdin=pipe, stdout=pipe, pass_fds=[shared.fileno()]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        yield process
        process.kill()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def found(monkeypatch: pytest.MonkeyPatch, pid: int) -> dockerd.Engine:
    monkeypatch.setattr(dockerd, "_find", lambda: (pid, 0.0))
    return dockerd.Engine()


def test_it_ends_when_it_listens_no_more(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(place) as shared, holder(shared) as process:
        engine = found(monkeypatch, process.pid)
        assert not engine.ends()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        assert process.stdout.read(1) == b"y"
        assert engine.ends(), "its socket is still there, with who shared it"


def test_one_that_is_gone_has_ended(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(place) as shared, holder(shared) as process:
        engine = found(monkeypatch, process.pid)
        end(process)
        assert engine.ends()


def test_one_whose_place_is_a_link_is_found(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/var/run is one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/link/{place.name}")
    with listening(tmp_path / "real" / place.name) as shared, holder(shared) as process:
        engine = found(monkeypatch, process.pid)
        shared.close()
        assert not engine.ends()
        end(process)
        assert engine.ends()


def test_one_that_is_reached_in_another_way_never_seems_to_end(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody passes connections on to it: that its own socket is another one says nothing."""
    with (
        listening(place),
        listening(tmp_path / "other") as shared,
        holder(shared) as process,
    ):
        engine = found(monkeypatch, process.pid)
        end(process)
        assert not engine.ends()


def test_where_nobody_listens_nothing_is_known(place: Path) -> None:
    assert not place.exists()
    assert not dockerd.Engine().ends()
    with pytest.raises(FileNotFoundError):
        dockerd.started()


def test_who_listens_is_told_by_the_kernel(place: Path) -> None:
    with listening(place):
        assert dockerd.listener() == os.getpid()


def test_when_it_was_started_is_known_of_a_dockerd_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(place):
        monkeypatch.setattr(psutil, "process_iter", lambda _: iter(()))
        assert dockerd.started() == 0
        monkeypatch.setattr(psutil.Process, "name", lambda _: "dockerd")
        assert time.time() - 3600 * 24 < dockerd.started() <= time.time()
