"""Archives that mean harm: nothing outside the container's root changes, and an error says why."""

from __future__ import annotations

import io
import os
import random
import resource
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docker_livemig import rootfs
from docker_livemig.layertar import OPAQUE, WHITEOUT, XATTR
from livemig.errors import LivemigError, TargetError
from livemig.system import procfs
from livemig.system.libc import libc
from tests.fuzzing import SEED, mutated, scaled
from tests.root.forked import Forked

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ARCHIVES = scaled(200)
MEMORY = 300 << 10  # KiB that a child may add to what it starts with: its limit, and some more
Member = Callable[[tarfile.TarFile], None]


class Jail:
    """A process whose root is a directory, and what lies around that directory."""

    def __init__(self, place: Path) -> None:
        self.root, self.around = place / "root", place / "around"
        for path in (self.root / "d" / "e", self.around / "secrets"):
            path.mkdir(parents=True)
        (self.root / "d" / "f").write_text("inside")
        (self.around / "secrets" / "key").write_text("outside")
        (self.root / "out").symlink_to(self.around)
        (self.root / "up").symlink_to("..")
        self._ear, mouth = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.chroot(self.root)
            os.write(mouth, b"x")
            while True:
                libc.pause()
        os.close(mouth)
        os.read(self._ear, 1)
        self._before = rootfs.listing(str(self.around)), sorted(os.listdir(place))

    def apply(self, data: bytes) -> None:
        rootfs.apply(self.pid, (data[at : at + 65536] for at in range(0, len(data), 65536)))

    def check(self) -> None:
        """Fail where anything around the root has changed."""
        place = self.around.parent
        assert (rootfs.listing(str(self.around)), sorted(os.listdir(place))) == self._before

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self._ear)


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Jail]:
    found = Jail(tmp_path)
    yield found
    found.close()
    found.check()


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def archive(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(content.ljust(member.size, b"x")))
    return buffer.getvalue()


def pax(name: str, **headers: str) -> tarfile.TarInfo:
    return info(name, pax_headers={key.replace("__", "."): text for key, text in headers.items()})


def long_header(size: int) -> Iterator[bytes]:
    """Yield an archive whose first header describes a name of ``size`` bytes."""
    yield info("././@PaxHeader", tarfile.XHDTYPE, size=size).tobuf(tarfile.USTAR_FORMAT)
    for _ in range(size >> 20):
        yield b"x" * (1 << 20)


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s"}
NAMES = [
    "../x",
    "..",
    "/x",
    "d/..",
    "d/../../x",
    "./x",
    "d//x",
    "d/./x",
    "out/x",
    "up/x",
    "d/f/x",
    f"d/{WHITEOUT}..",
    f"d/{WHITEOUT}.",
    f"{WHITEOUT}..",
    f"d/{WHITEOUT}",
    f"out/{WHITEOUT}secrets",
    f"out/{OPAQUE}",
    f"../{WHITEOUT}around",
]
CASES: dict[str, bytes] = {
    **{f"file {name}": archive(info(name)) for name in NAMES},
    **{f"directory {name}": archive(info(name, tarfile.DIRTYPE)) for name in NAMES[:11]},
    "link to outside": archive(info("x", tarfile.LNKTYPE, linkname="../around/secrets/key")),
    "link through a link": archive(info("x", tarfile.LNKTYPE, linkname="out/secrets/key")),
    "link to nothing": archive(info("x", tarfile.LNKTYPE, linkname="none")),
    "write through a link": archive(
        info("y", tarfile.SYMTYPE, linkname="../around"), info("y/secrets/key")
    ),
    "write through a new link": archive(
        info("d", tarfile.SYMTYPE, linkname="/"), info("d/x"), info("d/../x")
    ),
    "attribute of overlayfs": archive(pax("x", **{f"{XATTR}trusted.overlay.opaque": "y"})),
    "time": archive(pax("x", mtime="1e400")),
    "time that is none": archive(pax("x", mtime="soon")),
    "owner": archive(pax("x", uid=str(2**40))),
    "name with a zero": archive(pax("x", path="a\0b")),
    "sparse size": archive(pax("s", **SPARSE, GNU__sparse__realsize=str(2**70))),
    "sparse count": archive(
        info("s", pax_headers={**SPARSE, "GNU.sparse.realsize": "9"}, size=1024),
        content=b"9" * 1024,
    ),
    "sparse pieces": archive(
        info("s", pax_headers={**SPARSE, "GNU.sparse.realsize": "9"}, size=512),
        content=b"1\n-5\n-7\n".ljust(512, b"\0"),
    ),
    "write through a link that was a directory": archive(
        *(info(name, tarfile.DIRTYPE, mode=0o755) for name in ("a", "a/b", "c", "c/b")),
        info("a/b/x"),
        info("a", tarfile.SYMTYPE, linkname="c"),
        info("a/b/y"),
    ),
    "device": archive(info("x", tarfile.CHRTYPE, devmajor=2**20, devminor=2**20)),
    "unknown type": archive(info("x", b"Z")),
    "header of headers": info("p", tarfile.XHDTYPE, size=512).tobuf() * 3000,
    "cut": archive(info("x", size=100_000))[:5000],
    "not at all": b"no archive" * 1000,
}


@pytest.mark.parametrize("case", CASES)
def test_an_archive_that_means_harm_is_refused(jail: Jail, case: str) -> None:
    with pytest.raises(TargetError) as caught:
        jail.apply(CASES[case])
    assert type(caught.value) is TargetError, "no defect, and no other error"
    assert len(caught.value.message) < 500
    assert (jail.root / "d" / "f").exists() == (case != "write through a new link")


def test_a_mount_of_the_container_loses_nothing(jail: Jail) -> None:
    volume = jail.root / "d" / "e"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume], check=True, timeout=20)
    try:
        (volume / "data").write_text("precious")
        for member in (info("d"), info(f"{WHITEOUT}d"), info("d", tarfile.SYMTYPE, linkname="x")):
            with pytest.raises(TargetError, match="a mount is below it"):
                jail.apply(archive(member))
        jail.apply(archive(info("d/e/data"), info(f"d/e/{OPAQUE}"), info(f"d/{WHITEOUT}e")))
        jail.apply(archive(info(f"d/{OPAQUE}")))
        assert (volume / "data").read_text() == "precious"
    finally:
        subprocess.run(["umount", volume], check=True, timeout=20)


def test_a_header_takes_bounded_memory(jail: Jail) -> None:
    def take(_: Callable[[], None]) -> None:
        # What has been mapped and not been used yet may be, too: after many tests that is a lot.
        own = int(procfs.read_status(os.getpid())["VmSize"].split()[0])
        with pytest.raises(TargetError, match="too great a length"):
            rootfs.apply(jail.pid, long_header(own + 4 * MEMORY << 10))
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < own + MEMORY

    # In a process of its own: nobody else's children, of any size, are counted there.
    with Forked(take) as child:
        assert child.wait() == 0


def test_a_sparse_file_takes_no_room(jail: Jail) -> None:
    jail.apply(
        archive(
            info("s", pax_headers={**SPARSE, "GNU.sparse.realsize": str(1 << 40)}, size=512),
            content=b"1\n1099511627776\n0\n".ljust(512, b"\0"),
        )
    )
    status = (jail.root / "s").stat()
    assert (status.st_size, status.st_blocks) == (1 << 40, 0)


def everything() -> bytes:
    """Return an archive with one of every kind."""
    members = [
        info("d", tarfile.DIRTYPE, mode=0o755),
        info("a", size=5, pax_headers={f"{XATTR}user.x": "y", "mtime": "1.5"}),
        info("d/b", tarfile.LNKTYPE, linkname="a"),
        info("c", tarfile.SYMTYPE, linkname="../around/secrets/key"),
        info("d/p", tarfile.FIFOTYPE),
        info("n", tarfile.CHRTYPE, devmajor=1, devminor=3),
        info(f"d/{WHITEOUT}f"),
        info("long" * 40, size=600),
        info("s", pax_headers={**SPARSE, "GNU.sparse.realsize": "9000"}, size=517),
    ]
    return archive(*members, content=b"2\n0\n5\n9000\n0\n".ljust(512, b"\0") + b"hello")


def repaired(data: bytearray) -> bytes:
    """Give every header of an archive the checksum that it should have."""
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}\0 ".encode()
    return bytes(data)


def test_mutated_archives_stay_inside(jail: Jail) -> None:
    chance = random.Random(SEED)
    whole = everything()
    applied = 0
    for number in range(ARCHIVES):
        data = repaired(bytearray(mutated(chance, whole, unit=512)))
        started = time.monotonic()
        try:
            jail.apply(data)
            applied += 1
        except TargetError:
            pass
        except LivemigError as error:
            pytest.fail(f"LIVEMIG_SEED={SEED}, archive {number}: {error!r}")
        assert time.monotonic() - started < 10, f"LIVEMIG_SEED={SEED}, archive {number}"
    assert applied, "none of them was a good one"
    jail.check()
