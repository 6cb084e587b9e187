"""The unit that ends broken-off moves at the next boot, where no systemd is (tests/vm has one)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from docker_livemig import atboot
from livemig.errors import HostError


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the unit goes; systemctl notes what it is called with, and fails where `broken` is."""
    monkeypatch.setattr(atboot, "UNIT", tmp_path / "livemig-recover.service")
    monkeypatch.setattr(atboot, "_SYSTEMD", tmp_path / "system")
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n'
        f"[ ! -e {tmp_path}/broken ] || {{ echo no bus >&2; exit 1; }}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return atboot.UNIT


def calls(unit: Path) -> list[str]:
    """Return what systemctl was called with, and forget it."""
    noted = unit.with_name("calls")
    found = noted.read_text().splitlines() if noted.exists() else []
    noted.unlink(missing_ok=True)
    return found


def test_without_systemd_there_is_no_unit(unit: Path) -> None:
    assert not atboot.is_due()
    assert atboot.install() == []
    assert atboot.remove() == []
    assert not unit.exists()
    assert calls(unit) == []


def test_it_comes_once_and_goes(unit: Path) -> None:
    (unit.parent / "system").mkdir()
    assert atboot.is_due()
    assert atboot.install() == [f"installed {unit}"]
    assert calls(unit) == ["daemon-reload", "enable livemig-recover.service"]
    words = '"docker_livemig.main" "--context" "default" "livemig" "recover"'
    assert f'ExecStart="{sys.executable}" "-P" "-m" {words}\n' in unit.read_text()
    assert not atboot.is_due()
    assert atboot.install() == []
    assert atboot.remove() == [f"removed {unit}"]
    assert calls(unit) == ["disable --now livemig-recover.service", "daemon-reload"]
    assert not unit.exists()


def test_one_that_somebody_disabled_stays_so(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit.parent / "system").mkdir()
    unit.write_text("of an older version")
    monkeypatch.setattr(sys, "executable", '/opt/50%/"$x"/python3')
    assert atboot.install() == [f"installed {unit}"]
    assert calls(unit) == ["daemon-reload"]
    assert r'ExecStart="/opt/50%%/\"$$x\"/python3" "-P"' in unit.read_text()


def test_one_that_is_masked_stays_so(unit: Path) -> None:
    (unit.parent / "system").mkdir()
    unit.symlink_to("/dev/null")
    assert not atboot.is_due()
    assert not atboot.is_there()
    assert atboot.install() == atboot.remove() == []
    assert unit.is_symlink()
    assert calls(unit) == []


@pytest.mark.parametrize("before", [None, "of an older version"])
def test_a_systemd_that_does_not_do_it_is_named(unit: Path, before: str | None) -> None:
    """What it did not take is not there, so that the next time it is asked again."""
    (unit.parent / "system").mkdir()
    if before:
        unit.write_text(before)
    unit.with_name("broken").touch()
    with pytest.raises(HostError, match=r"`systemctl daemon-reload` failed: no bus"):
        atboot.install()
    assert (unit.read_text() if unit.exists() else None) == before
    unit.with_name("broken").unlink()
    assert atboot.install() == [f"installed {unit}"]


def test_it_goes_without_systemd_too(unit: Path) -> None:
    unit.write_text("from a time when systemd ran here")
    assert atboot.remove() == [f"removed {unit}"]
    assert calls(unit) == []
