"""A list of changes to a container's files as a tar: an OCI layer (`layerapply` applies it).

Beside what every tar has: extended attributes (``SCHILY.xattr.NAME``, binary), times to the
nanosecond, devices, hard links, holes in files (GNU sparse format 1.0), and the names that stand
for removals. Its members count in their order.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress

from docker_livemig.tarstream import BLOCK, END, member

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
XATTR = "SCHILY.xattr."
CHUNK = 1 << 20

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def is_whiteout(path: str) -> bool:
    """Tell whether a path of a list of changes stands for a removal."""
    return os.path.basename(path).startswith(WHITEOUT)


def whiteout_of(path: str) -> str:
    """Return the path that stands for the removal of ``path``."""
    directory, name = os.path.split(path)
    return os.path.join(directory, WHITEOUT + name)


def whiteout_target(path: str) -> str:
    """Return the path whose removal ``path`` stands for; an opaque mark's is its directory."""
    directory, name = os.path.split(path)
    return directory if name == OPAQUE else os.path.join(directory, name[len(WHITEOUT) :])


def pack(upper_dir: str, paths: Iterable[str], *, settle: bool = False) -> Iterator[bytes]:
    """Yield the tar for a list of changes (`rootfs.changed`) against the upper directory.

    ``settle`` writes each file back before it is read, so that a later change through a shared
    mapping shows in its times: give it while the container runs. What vanished meanwhile is left
    out. No symbolic link is followed. Raises OSError.
    """
    packer = _Packer(upper_dir, settle=settle)
    try:
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):
                yield from packer.add(path)
    finally:
        packer.close()
    yield END


class _Packer:
    def __init__(self, upper_dir: str, *, settle: bool) -> None:
        self._root = os.open(upper_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._here = ("", os.dup(self._root))
        self._settle = settle
        self._leaders: dict[int, str] = {}

    def close(self) -> None:
        os.close(self._here[1])
        os.close(self._root)

    def add(self, path: str) -> Iterator[bytes]:
        info = tarfile.TarInfo(path)
        if is_whiteout(path):
            yield from member(info)
            return
        directory, name = os.path.split(path)
        parent = self._enter(directory)
        status = os.stat(name or ".", dir_fd=parent, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) not in _TYPES:
            return  # a socket by now: the next scan shows it
        self._describe(info, status, f"/proc/self/fd/{parent}/{name}")
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISLNK(status.st_mode):
                info.linkname = os.readlink(name, dir_fd=parent)
            yield from member(info)
            return
        if leader := self._leaders.get(status.st_ino):
            info.type, info.linkname = tarfile.LNKTYPE, leader
            yield from member(info)
            return
        sent = yield from self._add_file(info, os.open(name, _OPEN_FILE, dir_fd=parent))
        if sent and status.st_nlink > 1:
            self._leaders[status.st_ino] = path

    def _enter(self, directory: str) -> int:
        """Return a descriptor of a directory, reached without following a symbolic link."""
        if directory == self._here[0]:
            return self._here[1]
        at = os.dup(self._root)
        for name in filter(None, directory.split("/")):
            try:
                inner = os.open(name, _OPEN_DIRECTORY, dir_fd=at)
            finally:
                os.close(at)
            at = inner
        os.close(self._here[1])
        self._here = (directory, at)
        return at

    def _describe(self, info: tarfile.TarInfo, status: os.stat_result, access: str) -> None:
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = status.st_uid, status.st_gid
        info.type = _TYPES[stat.S_IFMT(status.st_mode)]
        if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        seconds, nanoseconds = divmod(status.st_mtime_ns, 1_000_000_000)
        headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
        for name in os.listxattr(access, follow_symlinks=False):
            if not name.startswith("trusted.overlay."):
                value = os.getxattr(access, name, follow_symlinks=False)
                headers[XATTR + name] = value.decode("utf-8", "surrogateescape")
        info.pax_headers = headers

    def _add_file(self, info: tarfile.TarInfo, descriptor: int) -> Generator[bytes, None, bool]:
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return False  # another thing by now: the next scan shows it
            if self._settle:
                os.fdatasync(descriptor)
            info.size = status.st_size
            if status.st_blocks * 512 >= status.st_size:
                yield from member(info, _read(descriptor, [(0, info.size)]))
            else:
                yield from _sparse_member(info, descriptor)
            return True
        finally:
            os.close(descriptor)


def _sparse_member(info: tarfile.TarInfo, descriptor: int) -> Iterator[bytes]:
    """Yield a file with holes (GNU tar's manual, "PAX Format, Version 1.0")."""
    pieces = list(_pieces(descriptor, info.size))
    # A hole at the end is said by an empty piece there.
    pieces.append((info.size, 0))
    numbers = [len(pieces), *(number for piece in pieces for number in piece)]
    table = "".join(f"{number}\n" for number in numbers).encode()
    table += bytes(-len(table) % BLOCK)
    info.pax_headers = {
        **info.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(info.size),
    }
    info.size = len(table) + sum(length for _, length in pieces)
    content = _read(descriptor, pieces)
    yield from member(info, (chunk for part in ([table], content) for chunk in part))


def _pieces(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start


def _read(descriptor: int, pieces: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for start, length in pieces:
        at, end = start, start + length
        while at < end:
            wanted = min(CHUNK, end - at)
            # Zeros for a file that shrank, so that what follows stays in its place.
            chunk = os.pread(descriptor, wanted, at) or bytes(wanted)
            at += len(chunk)
            yield chunk
