"""What guests start from, on a machine whose cache has nothing yet."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hosts import images
from tests.vm import VmError, disks, is_prepared, kernels, machines


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


def test_what_is_kept_forgets_the_oldest_of_its_kind_alone(tmp_path: Path) -> None:
    others = ["vm1-6.1-debug-0123456789abcdef", "vm1-6.1-debug-kasan.lock"]
    (tmp_path / others[0]).mkdir()
    (tmp_path / others[1]).touch()
    made = [f"vm1-6.1-{digit * 16}" for digit in "abc"]
    for age, name in enumerate(reversed(made), 1):
        disks.kept(tmp_path / name, lambda draft: (draft / "disk").touch())
        os.utime(tmp_path / name, (age, age))
    disks.kept(tmp_path / made[0], lambda _: pytest.fail("it was there"))
    assert {each.name for each in tmp_path.iterdir()} == {*others, *made[:2], "vm1-6.1.lock"}


class Starting:
    """A guest whose kernel complains as often as it is told to."""

    def __init__(self, complaints: int) -> None:
        self.complaints = complaints
        self.saved: list[Path] = []
        self.removed = 0

    def start(self, *_: Any) -> None:
        pass

    def save(self, directory: Path) -> None:
        self.saved.append(directory)

    def remove(self) -> None:
        self.removed += 1

    def run(self, command: str, **_: Any) -> Any:
        said = ""
        if command.startswith("dmesg"):
            self.complaints -= 1
            said = "" if self.complaints < 0 else "BUG: workqueue lockup - pool cpus=0 stuck!"
        return SimpleNamespace(stdout="0" if "tainted" in command else said)


@pytest.mark.parametrize("complaints", [0, 1, 2])
def test_a_guest_whose_kernel_complains_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, complaints: int
) -> None:
    """Every test would begin with what it said, until the cache is emptied by hand."""
    guest = Starting(complaints)
    machine = machines.Machine(0)
    for name in ("guest", "parts", "furnish"):
        monkeypatch.setattr(machines.Machine, name, lambda *_: guest)
    monkeypatch.setattr(machines, "state_root", lambda: tmp_path)
    monkeypatch.setattr(machines.Machine, "place", lambda _: tmp_path / "vm1-0123456789abcdef")
    refused = pytest.raises(VmError, match="vm1 cannot be saved")
    with refused if complaints == 2 else nullcontext():
        machine.saved()
    assert len(guest.saved) == (complaints < 2)
    assert guest.removed == min(complaints + 1, 2)
