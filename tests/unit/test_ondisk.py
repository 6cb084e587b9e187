"""Files that are put in place in one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_livemig import ondisk


def test_replacing_keeps_mode_and_link(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("old")
    real.chmod(0o600)
    link = tmp_path / "daemon.json"
    link.symlink_to(real)
    ondisk.replace(link, b"new", mode=0o644)
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["daemon.json", "real.json"]


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        ondisk.replace(tmp_path / "taken", b"new", mode=0o644)
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
