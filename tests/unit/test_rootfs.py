"""The writable layer: what is found, what counts as changed, and that a copy is the same."""

from __future__ import annotations

import io
import mmap
import os
import random
import socket
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from docker_livemig import rootfs
from docker_livemig.rootfs import Entry, Manifest
from livemig.errors import DiskFull, LivemigError, NotCarried, TargetError
from livemig.system.libc import libc

DIR, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644


def manifest(**entries: Entry) -> Manifest:
    named = {path.replace("__", "/"): entry for path, entry in entries.items()}
    return Manifest({".": Entry(DIR, 1, 0, 1, 1), **named}, 0)


def entry(ino: int, *, time: int = 1, mode: int = FILE, mark: str = "") -> Entry:
    return Entry(mode, ino, 0, time, time, mark)  # type: ignore[arg-type]


# What counts as changed


def test_nothing_changed_is_nothing_to_send() -> None:
    one = manifest(a=entry(2), d=entry(3, mode=DIR), d__x=entry(4))
    assert rootfs.changed(one, one) == []
    assert rootfs.everything(one) == [".", "a", "d", "d/x"]


def test_what_vanished_is_removed_once() -> None:
    old = manifest(d=entry(2, mode=DIR), d__x=entry(3), e=entry(4), w=entry(5, mark="whiteout"))
    assert rootfs.changed(old, manifest()) == [".wh.d", ".wh.e"]


def test_a_file_changed_in_place_keeps_its_place_and_another_one_replaces_it() -> None:
    old = manifest(a=entry(2), b=entry(3))
    new = manifest(a=entry(2, time=2), b=entry(4))
    assert rootfs.changed(old, new) == ["a", ".wh.b", "b"]


def test_a_whiteout_is_a_removal() -> None:
    new = manifest(d=entry(2, mode=DIR), d__x=entry(3, mark="whiteout"))
    assert rootfs.changed(manifest(), new) == ["d", "d/.wh.x"]
    assert rootfs.changed(new, new) == []


def test_a_new_opaque_directory_comes_whole_and_an_old_one_does_not() -> None:
    def layer(ino: int, dir_time: int) -> Manifest:
        directory = entry(ino, time=dir_time, mode=DIR, mark="opaque")
        return manifest(d=directory, d__x=entry(9))

    whole = ["d", "d/.wh..wh..opq", "d/x"]
    assert rootfs.changed(manifest(), layer(2, 1)) == whole
    assert rootfs.changed(layer(2, 1), layer(2, 2)) == ["d"]
    assert rootfs.changed(layer(2, 1), layer(3, 2)) == [".wh.d", *whole]


def test_a_directory_that_became_a_link_takes_its_files_along() -> None:
    old = manifest(d=entry(2, mode=DIR), d__x=entry(3))
    new = manifest(d=entry(4, mode=stat.S_IFLNK | 0o777))
    assert rootfs.changed(old, new) == [".wh.d", "d"]


def test_what_may_change_unnoticed_is_sent_again() -> None:
    racy = Entry(FILE, 2, 0, 1, -1)
    assert rootfs.changed(manifest(a=racy), manifest(a=racy)) == ["a"]


# Finding


def test_a_file_that_was_just_written_is_racy_and_an_old_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert rootfs.scan(str(tmp_path)).entries["f"].ctime_ns == -1
    settle()
    first = rootfs.scan(str(tmp_path))
    assert first.entries["f"].ctime_ns == (tmp_path / "f").stat().st_ctime_ns
    again = rootfs.scan(str(tmp_path), first)
    assert again.entries["f"] is first.entries["f"]
    assert rootfs.changed(first, again) == []


def test_sockets_are_left_out_with_a_note(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
    found = rootfs.scan(str(tmp_path))
    assert rootfs.everything(found) == [".", ".wh.sock"]
    assert "/sock is a socket" in found.notes[0]


def test_a_file_of_many_names_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(1 << 20))
    for name in "bcdef":
        (tmp_path / name).hardlink_to(tmp_path / "a")
    assert 1 << 20 <= rootfs.scan(str(tmp_path)).size < 2 << 20


def test_a_name_like_a_removal_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".wh.mine").touch()
    with pytest.raises(NotCarried, match=r"/\.wh\.mine"):
        rootfs.scan(str(tmp_path))


def test_no_link_leads_out_of_the_layer(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "d").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "f").write_text("secret")
    (upper / "d" / "f").write_text("mine")
    paths = rootfs.everything(rootfs.scan(str(upper)))
    assert paths == [".", "d", "d/f"]
    # The container puts a link in the place of the directory meanwhile.
    (upper / "d").rename(upper / "e")
    (upper / "d").symlink_to(tmp_path / "secret")
    assert b"secret" not in b"".join(rootfs.pack(str(upper), ["d/f"]))


# A copy


def settle() -> None:
    """Let the clock move on, so that files are not racy."""
    time.sleep(0.06)


class Overlay:
    """An overlay mount, and a process that has it as its root, as a container does."""

    def __init__(self, place: Path, lower: Path) -> None:
        self.upper, self.root = place / "upper", place / "root"
        for path in (self.upper, place / "work", self.root):
            path.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={lower},upperdir={self.upper},workdir={place / 'work'}"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, self.root], check=True, timeout=20
        )
        self._hold, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._hold)
            os.chroot(self.root)
            os.write(theirs, b"x")
            while True:
                libc.pause()
        os.close(theirs)
        os.read(self._hold, 1)

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self._hold)
        subprocess.run(["umount", self.root], check=True, timeout=20)


Make = Callable[[str], Overlay]


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    path = tmp_path / "lower"
    for name in ("d/e", "etc", "gone"):
        (path / name).mkdir(parents=True)
    for name in ("d/f", "d/e/g", "etc/h", "gone/i", "gone/j", "k"):
        (path / name).write_text(f"lower {name}")
    os.link(path / "k", path / "l")
    (path / "m").symlink_to("d/f")
    return path


@pytest.fixture
def overlay(lower: Path) -> Iterator[Make]:
    """Layers on a disk, as Docker's are: a tmpfs, which /tmp may be, has other times of change."""
    made: list[Overlay] = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:

        def make(name: str) -> Overlay:
            made.append(Overlay(Path(place) / name, lower))
            return made[-1]

        yield make
        for each in made:
            each.close()


def send(source: Overlay, target: Overlay, before: Manifest | None) -> Manifest:
    now = rootfs.scan(str(source.upper), before)
    paths = rootfs.changed(before, now) if before else rootfs.everything(now)
    rootfs.apply(target.pid, rootfs.pack(str(source.upper), paths, settle=before is None))
    return now


def assert_same(source: Overlay, target: Overlay) -> None:
    assert rootfs.listing(str(target.root)) == rootfs.listing(str(source.root))
    assert rootfs.digest(str(target.root)) == rootfs.digest(str(source.root))


@pytest.mark.root
def test_every_kind_of_file_arrives(overlay: Make) -> None:
    source, target = overlay("source"), overlay("target")
    root = source.root
    strange = os.fsdecode(b"caf\xe9 \n%")
    (root / "new").mkdir(mode=0o2770)
    (root / "new" / strange).write_bytes(bytes(range(256)) * 1000)
    (root / ("long" * 50)).mkdir()
    (root / ("long" * 50) / ("name" * 40)).write_text("x" * 511)
    (root / "suid").write_text("x")
    os.chown(root / "suid", 12, 3_000_000)
    (root / "suid").chmod(0o6755)
    os.setxattr(root / "suid", "user.binary", bytes(range(256)) + b"=\n")
    os.setxattr(root / "suid", "security.capability", CAP_NET_RAW)
    os.setxattr(root / "new", "user.on-directory", b"")
    os.setxattr(root / "new", "trusted.mine", b"\xff")
    (root / "link").symlink_to("/nowhere/at all")
    os.lchown(root / "link", 5, 6)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o620 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "odd", stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(root / "disk", 0o600 | stat.S_IFBLK, os.makedev(259, 70000))
    (root / "one").write_text("twice")
    os.link(root / "one", root / "new" / "two")
    (root / "k").write_text("changed, and no longer linked")
    (root / "d" / "f").unlink()
    subprocess.run(["rm", "-r", root / "gone"], check=True)
    (root / "gone").mkdir()
    (root / "gone" / "i").write_text("new")
    (root / "m").unlink()
    (root / "m").mkdir()
    os.utime(root / "etc" / "h", ns=(1, -1_500_000_001))
    os.utime(root / "new", ns=(1, 4_102_444_800_123_456_789))
    root.chmod(0o711)
    settle()
    send(source, target, None)
    assert_same(source, target)
    assert os.getxattr(target.root / "suid", "security.capability") == CAP_NET_RAW
    assert (target.root / "odd").lstat().st_rdev == os.makedev(1, 5)


CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.mark.root
def test_holes_stay_holes(overlay: Make) -> None:
    source, target = overlay("source"), overlay("target")
    for name, writes, size in (
        ("hole first", [(64 << 20, b"end")], (64 << 20) + 3),
        ("hole last", [(0, b"begin")], 64 << 20),
        ("holes between", [(0, b"a"), (50 << 20, b"b" * 9000), (90 << 20, b"c")], 100 << 20),
        ("nothing else", [], 1 << 20),
    ):
        with open(source.root / name, "wb") as file:
            for at, data in writes:
                os.pwrite(file.fileno(), data, at)
            file.truncate(size)
    settle()
    start = time.monotonic()
    tar = list(rootfs.pack(str(source.upper), rootfs.everything(rootfs.scan(str(source.upper)))))
    assert sum(map(len, tar)) < 200_000
    rootfs.apply(target.pid, iter(tar))
    assert time.monotonic() - start < 5
    assert_same(source, target)
    assert sum(each.stat().st_blocks for each in target.root.iterdir()) * 512 < 1 << 20


@pytest.mark.root
@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_between_passes_the_copy_is_the_same(overlay: Make, seed: int) -> None:
    dice = random.Random(seed)
    source, target = overlay("source"), overlay("target")
    seen: Manifest | None = None
    for _ in range(6):
        for _ in range(dice.randrange(25)):
            with suppress(OSError):
                change_something(dice, source.root)
        if dice.random() < 0.5:
            settle()
        seen = send(source, target, seen)
        assert_same(source, target)


def change_something(dice: random.Random, root: Path) -> None:
    """One step of a program that is at work on its files."""
    everything = [path for path in root.rglob("*") if path.is_relative_to(root)]
    some = dice.choice(everything or [root / "a"])
    place = dice.choice([root, *(path for path in everything if is_directory(path))])
    new = place / dice.choice("abcdefghij")
    match dice.randrange(11):
        case 0:
            some.write_bytes(dice.randbytes(dice.randrange(3000)))
        case 1:
            new.write_bytes(dice.randbytes(dice.randrange(100)))
        case 2:
            new.mkdir()
        case 3 | 4:
            subprocess.run(["rm", "-rf", some], check=True)
        case 5 | 6:
            some.rename(new)
        case 7:
            os.link(some, new, follow_symlinks=False)
        case 8:
            new.symlink_to(dice.choice(["a", "../b", "/c"]))
        case 9:
            os.chmod(some, dice.choice([0o600, 0o755]))
        case 10:
            subprocess.run(["rm", "-rf", some], check=True)
            some.mkdir()
            (some / "fresh").write_text("x")


def is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@pytest.mark.root
def test_who_has_a_file_open_sees_it_change_in_place_and_keeps_one_that_was_replaced(
    overlay: Make,
) -> None:
    source, target = overlay("source"), overlay("target")
    for name in ("log", "conf"):
        (source.root / name).write_text("one")
    settle()
    seen = send(source, target, None)
    with open(target.root / "log") as log, open(target.root / "conf") as conf:
        (source.root / "log").write_text("two")
        (source.root / "conf.new").write_text("two")
        (source.root / "conf.new").rename(source.root / "conf")
        send(source, target, seen)
        assert log.read() == "two"
        assert conf.read() == "one"
    assert_same(source, target)


@pytest.mark.root
def test_what_a_mount_of_the_target_hides_is_left_alone(overlay: Make) -> None:
    source, target = overlay("source"), overlay("target")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target.root / "etc"], check=True)
    try:
        for name in ("etc/h", "etc/new", "seen"):
            (source.root / name).write_text("new")
        (source.root / "etc").chmod(0o700)
        send(source, target, None)
        assert os.listdir(target.root / "etc") == []
        assert (target.root / "etc").stat().st_mode & 0o777 == 0o777
        assert (target.root / "seen").read_text() == "new"
    finally:
        subprocess.run(["umount", target.root / "etc"], check=True)


@pytest.mark.root
def test_a_frozen_pass_finds_what_a_shared_mapping_wrote(overlay: Make) -> None:
    source, target = overlay("source"), overlay("target")
    with open(source.root / "mapped", "w+b") as file:
        file.write(bytes(4096))
        file.flush()
        with mmap.mmap(file.fileno(), 4096) as memory:
            memory[0] = 1
            settle()
            seen = send(source, target, None)
            settle()
            memory[0] = 2  # times change only because the page was written back
            send(source, target, seen)
            assert_same(source, target)


@pytest.mark.root
@pytest.mark.parametrize("name", ["../out", "/out", "d/../../out", "m/inner", "d/..", "./out"])
def test_an_archive_cannot_lead_out(overlay: Make, tmp_path: Path, name: str) -> None:
    target = overlay("target")
    (target.root / "m").unlink()
    (target.root / "m").symlink_to(tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(TargetError, match=r"Not a directory|not a name that a file has"):
        rootfs.apply(target.pid, iter([buffer.getvalue()]))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "inner").exists()


@pytest.mark.root
@pytest.mark.parametrize("rest", [b"", b"x" * 4096])
def test_a_damaged_archive_is_an_error(overlay: Make, rest: bytes) -> None:
    source, target = overlay("source"), overlay("target")
    (source.root / "big").write_bytes(b"y" * 100_000)
    whole = b"".join(rootfs.pack(str(source.upper), ["big"]))
    with pytest.raises(TargetError, match="damaged"):
        rootfs.apply(target.pid, iter([whole[:2048], rest]))


@pytest.mark.root
def test_no_changes_and_a_source_that_breaks_off(overlay: Make) -> None:
    source, target = overlay("source"), overlay("target")
    rootfs.apply(target.pid, rootfs.pack(str(source.upper), []))

    def broken() -> Iterator[bytes]:
        yield b"x" * 100
        raise LivemigError("link lost")

    with pytest.raises(LivemigError, match="link lost"):
        rootfs.apply(target.pid, broken())


@pytest.mark.root
def test_a_full_disk_names_the_file(tmp_path: Path, lower: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        target = Overlay(small, lower)
        upper = tmp_path / "upper"
        upper.mkdir()
        (upper / "big").write_bytes(b"x" * (4 << 20))
        with pytest.raises(DiskFull, match=r"/big of the container on .*: No space left"):
            rootfs.apply(target.pid, rootfs.pack(str(upper), [".", "big"]))
        target.close()
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.root
@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_what_only_overlayfs_understands_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", f"trusted.overlay.{name}", b"")
    with pytest.raises(NotCarried, match=r"/f was (renamed|changed) by overlayfs"):
        rootfs.scan(str(tmp_path))


@pytest.mark.root
def test_whiteouts_by_attribute_are_known(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", "trusted.overlay.whiteout", b"y")
    os.setxattr(tmp_path, "trusted.overlay.opaque", b"x")
    assert rootfs.everything(rootfs.scan(str(tmp_path))) == [".", ".wh.f"]


def test_a_file_that_shrinks_while_it_is_read_keeps_the_archive_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    (tmp_path / "b").write_text("after")
    chunks = []
    for chunk in rootfs.pack(str(tmp_path), ["a", "gone", "b"]):
        chunks.append(chunk)
        os.truncate(tmp_path / "a", 10)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        assert tar.getnames() == ["a", "b"]


def test_what_has_become_a_socket_is_left_out(tmp_path: Path) -> None:
    """The scan saw a file; the next one sees what it is."""
    (tmp_path / "a").write_text("before")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
    whole = b"".join(rootfs.pack(str(tmp_path), ["a", "s"]))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert tar.getnames() == ["a"]
