"""Files that are put in place in one step."""

from __future__ import annotations

import os
import stat
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


def test_what_is_no_file_stays(tmp_path: Path) -> None:
    device = tmp_path / "device"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "link").symlink_to(device)
    for name in ("device", "link"):
        with pytest.raises(FileExistsError):
            ondisk.replace(tmp_path / name, b"new", mode=0o644)
    assert stat.S_ISCHR(device.stat().st_mode)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["device", "link"]
