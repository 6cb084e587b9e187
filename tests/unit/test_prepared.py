"""What guests start from, on a machine whose cache has nothing yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts import images
from tests.vm import VmError, disks, is_prepared, kernels


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an empty cache, and one version of every package and program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module, name in ((images, "_command"), (disks, "command"), (kernels, "command")):
        monkeypatch.setattr(module, name, lambda *_: "1.0")


def test_an_empty_cache_is_no_failure() -> None:
    assert not is_prepared()


def test_nothing_is_prepared_where_its_sources_are_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*argv: object) -> str:
        raise VmError(f"{argv[0]}: no packages found")

    monkeypatch.setattr(kernels, "command", fail)
    assert not is_prepared()
