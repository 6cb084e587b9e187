"""What has to outlive a loss of power: the files of what has arrived, and what must not start."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_livemig import hold, rootfs, unpack
from tests import pace
from tests.unit.test_rootfs import Overlay
from tests.unit.test_runtime import CONFIG, ID, RUNTIME

pytestmark = pytest.mark.root

_SHUTDOWN, _WITHOUT_LOG = 0x8004587D, struct.pack("I", 2)  # EXT4_IOC_SHUTDOWN, NOLOGFLUSH
_SIZE = 64 << 20


class Disk:
    """A file system that can lose its power: what it had not written is gone then."""

    def __init__(self, place: Path) -> None:
        self.image, self.root = place / "image", place / "disk"
        self.root.mkdir()
        with self.image.open("wb") as file:
            file.truncate(_SIZE)
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True, timeout=pace.limit(20))
        self._mount()

    def _mount(self) -> None:
        subprocess.run(
            ["mount", "-t", "ext4", "-o", "loop", self.image, self.root],
            check=True,
            timeout=pace.limit(20),
        )

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", self.root], check=True, timeout=pace.limit(20))

    @contextmanager
    def losing_power(self) -> Iterator[None]:
        """Lose the power, close in the scope what is open on it, and come up again."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_LOG)
        finally:
            os.close(descriptor)
        yield
        self.close()
        self._mount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def target(disk: Disk) -> Overlay:
    lower = disk.root / "lower"
    (lower / "old").mkdir(parents=True)
    (lower / "old" / "log").write_text("of the image")
    made = Overlay(disk.root / "target", lower)
    subprocess.run(["sync", "-f", disk.root], check=True, timeout=pace.limit(20))
    return made


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    (path / "new").mkdir(parents=True)
    (path / "old").mkdir()
    (path / "new" / "ledger").write_bytes(b"acknowledged" * 1000)
    (path / "old" / "log").write_text("and more")
    (path / "link").symlink_to("new/ledger")
    return path


@contextmanager
def after_the_loss(disk: Disk, target: Overlay) -> Iterator[Overlay]:
    """Lose the power, and mount the container's files again: they are what they were."""
    wanted = rootfs.listing(str(target.root))
    with disk.losing_power():
        target.close()
    again = Overlay(disk.root / "target", disk.root / "lower")
    try:
        assert rootfs.listing(str(again.root)) == wanted
        yield again
    finally:
        again.close()


def test_what_came_while_it_ran_is_on_the_disk_with_the_image(
    disk: Disk, target: Overlay, upper: Path
) -> None:
    (disk.root / "lower" / "layer").write_text("loaded just now")
    rootfs.apply(target.pid, rootfs.pack(str(upper), rootfs.everything(rootfs.scan(str(upper)))))
    with after_the_loss(disk, target) as again:
        assert (again.root / "new" / "ledger").read_bytes() == b"acknowledged" * 1000
        assert (again.root / "layer").read_text() == "loaded just now"


@pytest.mark.parametrize("few", [0, 64])
def test_what_came_when_it_was_frozen_is_on_the_disk(
    disk: Disk, target: Overlay, upper: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(unpack, "_FEW", few)
    before = rootfs.scan(str(upper))
    rootfs.apply(target.pid, rootfs.pack(str(upper), rootfs.everything(before)))
    (upper / "new" / "ledger").write_bytes(b"the last word")
    (upper / "new" / "second").write_text("made just now")
    (upper / "old" / "log").unlink()
    (upper / "link").unlink()
    changes = rootfs.changed(before, rootfs.scan(str(upper)))
    rootfs.apply_frozen(target.pid, rootfs.pack(str(upper), changes)).finish()
    with after_the_loss(disk, target) as again:
        assert (again.root / "new" / "ledger").read_bytes() == b"the last word"
        assert not (again.root / "link").is_symlink()


def test_the_record_of_a_held_container_says_what_was_written_last(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one would let the command run as a second copy, or never let it start again."""
    monkeypatch.setenv("LIVEMIG_HOLD_DIR", str(disk.root / "hold"))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    create = [str(RUNTIME), "create", "--bundle", str(tmp_path), ID]
    environment = {"LIVEMIG_HOLD_DIR": str(disk.root / "hold"), "LIVEMIG_RUNC": "/bin/true"}
    hold.pend(ID, Path("/bin/true"))
    with disk.losing_power():
        pass
    assert hold.state(ID) == "pending"
    subprocess.run(create, env=environment, check=True, timeout=pace.limit(20))
    with disk.losing_power():
        pass
    assert hold.state(ID) == "held"
    hold.running(ID)
    with disk.losing_power():
        pass
    assert hold.state(ID) == "running"
    hold.forget(ID)
    with disk.losing_power():
        pass
    assert hold.state(ID) is None
