"""Unpacks a tar of `layertar` over the files below the current directory.

For a child process whose root that is (`layerapply`): so no symbolic link leads out of it.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, cast

from docker_livemig import ondisk
from docker_livemig.layertar import CHUNK, OPAQUE, XATTR, is_whiteout, whiteout_target
from livemig.errors import DiskFull, LivemigError, TargetError

_ESCAPE = "surrogateescape"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENODATA)
_OVERLAYS_OWN = "trusted.overlay."
# What tarfile, or a system call, makes of fields that no archive of ours has.
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)
_FEW = 64  # files that are written back one by one; of more, all that the file system has
# The host's security module gives its own label to what is created.
_HOSTS_OWN = ("security.selinux", "security.ima", "security.evm")


class Unpacking:
    """One archive on its way to a container's files; ``mounts`` are where others are mounted.

    ``frozen``: nobody else writes to them meanwhile.
    """

    def __init__(self, mounts: set[str], *, frozen: bool) -> None:
        self._mounts = mounts
        self._frozen = frozen
        self._files: set[str] = set()
        self._times: dict[str, int] = {}
        self._proven = ""

    def run(self, source: int) -> None:
        """Unpack what comes on a descriptor; DiskFull, or TargetError that names the path."""
        reader = cast("IO[bytes]", os.fdopen(source, "rb", buffering=0))
        name = "the archive"
        try:
            with tarfile.open(
                fileobj=reader, mode="r|", bufsize=CHUNK, encoding="utf-8", errors=_ESCAPE
            ) as tar:
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined] # else it remembers all
                    name = info.name
                    _check_name(name)
                    if not self._is_hidden(name):
                        self._one(tar, info)
            # Last, as they change with what is put into the directory.
            for name, times in self._times.items():
                if _is_kind(name, stat.S_IFDIR):
                    os.utime(name, ns=(times, times))
        except OSError as error:
            raise _translated(name, error) from error
        except _DAMAGED as error:
            raise TargetError(
                f"the archive of the container's files is damaged at {name!r}: {error}"
            ) from error
        except MemoryError as error:
            raise TargetError(
                f"the archive of the container's files describes {name!r} at too great a length"
            ) from error

    def write_back(self) -> None:
        """Have on the disk what came or, while the container runs, all of the file system."""
        changed = self._files | self._times.keys()
        try:
            if self._frozen and len(changed) <= _FEW:
                ondisk.sync_files(changed)
            else:
                ondisk.sync_file_system(".")
        except OSError as error:
            raise _translated("", error) from error

    def _is_hidden(self, name: str) -> bool:
        name = whiteout_target(name) if is_whiteout(name) else name
        return any(name == point or name.startswith(point + "/") for point in self._mounts)

    def _one(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        path = info.name
        parent = os.path.dirname(path) or "."
        self._prove(parent)
        if parent not in self._times:
            self._times[parent] = os.stat(parent).st_mtime_ns
        if os.path.basename(path) == OPAQUE:
            self._empty(parent)
        elif is_whiteout(path):
            self._clear(whiteout_target(path))
        else:
            maker = _make_file if info.isreg() else _MAKERS.get(info.type)
            if maker is None:
                raise tarfile.ReadError(f"{path} is of unknown type {info.type!r}")
            self._make_way(info)
            maker(tar, info)
            if len(self._files) <= _FEW:  # of more nobody wants to know the names
                self._files.add(path)
            if not info.islnk():
                _set_attributes(path, info)
            if info.isdir():
                self._times[path] = _mtime_ns(info)
            elif not info.islnk():
                times = _mtime_ns(info)
                os.utime(path, ns=(times, times), follow_symlinks=False)

    def _empty(self, directory: str) -> None:
        for name in os.listdir(directory):
            path = os.path.normpath(os.path.join(directory, name))
            if not any(point == path or point.startswith(path + "/") for point in self._mounts):
                self._clear(path)

    def _make_way(self, info: tarfile.TarInfo) -> None:
        """Remove what cannot become what comes; the name of a link must be proven as well."""
        if info.islnk():
            _check_name(info.linkname)
            self._prove(os.path.dirname(info.linkname) or ".")
            if _same_file(info.name, info.linkname):
                return
        kind = stat.S_IFREG if info.isreg() else stat.S_IFDIR if info.isdir() else None
        # In place where there is a file: who has it open keeps it.
        if kind is None or not _is_kind(info.name, kind):
            self._clear(info.name)

    def _clear(self, path: str) -> None:
        """Remove what is there; never what a mount of the container shows."""
        if any(point == path or point.startswith(path + "/") for point in self._mounts):
            raise OSError(errno.EBUSY, f"{os.strerror(errno.EBUSY)} (a mount is below it)", path)
        _remove(path)
        self._proven = ""  # it may have been in the way that was proven

    def _prove(self, directory: str) -> None:
        """Raise unless a directory is one by itself, not by a symbolic link in its path."""
        if directory in (".", self._proven):
            return
        at = ""
        for name in directory.split("/"):
            at = os.path.join(at, name)
            if name in ("", ".", "..") or not stat.S_ISDIR(os.lstat(at).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), at)
        self._proven = directory


def _make_file(tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(info.name, flags, 0o600)
    try:
        content = cast("IO[bytes]", tar.fileobj)
        pieces = getattr(info, "sparse", None) or [(0, info.size)]
        data = info.offset_data
        for start, length in pieces:
            if start < 0 or length < 0:
                raise tarfile.ReadError("a piece of a sparse file is nowhere")
            content.seek(data)
            _copy(content, descriptor, start, length)
            data += length
        os.ftruncate(descriptor, info.size)
    finally:
        os.close(descriptor)


def _copy(content: IO[bytes], descriptor: int, at: int, length: int) -> None:
    end = at + length
    while at < end:
        chunk = content.read(min(CHUNK, end - at))
        if not chunk:
            raise tarfile.ReadError("unexpected end of data")
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(descriptor, rest, at)
            at += written
            rest = rest[written:]


def _make_directory(_: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    if not _is_kind(info.name, stat.S_IFDIR):
        os.mkdir(info.name)


def _make_link(_: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    if not _same_file(info.name, info.linkname):
        os.link(info.linkname, info.name, follow_symlinks=False)


def _make_symlink(_: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    os.symlink(info.linkname, info.name)


def _make_node(_: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    kind = {tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.CHRTYPE: stat.S_IFCHR}
    device = os.makedev(info.devmajor, info.devminor)
    os.mknod(info.name, kind.get(info.type, stat.S_IFBLK) | 0o600, device)


_MAKERS: dict[bytes, Callable[[tarfile.TarFile, tarfile.TarInfo], None]] = {
    tarfile.DIRTYPE: _make_directory,
    tarfile.LNKTYPE: _make_link,
    tarfile.SYMTYPE: _make_symlink,
    tarfile.FIFOTYPE: _make_node,
    tarfile.CHRTYPE: _make_node,
    tarfile.BLKTYPE: _make_node,
}


def _check_name(path: str) -> None:
    """Raise ReadError for a name that is not that of one file below the root, whatever links say.

    ``.`` alone is the root.
    """
    told = whiteout_target(path) if is_whiteout(path) else path
    if path != "." and any(part in ("", ".", "..") for part in (told or ".").split("/")):
        raise tarfile.ReadError(f"{path!r} is not a name that a file has")


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False


def _is_kind(path: str, kind: int) -> bool:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode) == kind
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    """Remove a file or a whole tree, if it is there; never follows a symbolic link."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in os.listdir(path):
        _remove(os.path.join(path, name))
    os.rmdir(path)


def _set_attributes(path: str, info: tarfile.TarInfo) -> None:
    os.lchown(path, info.uid, info.gid)
    if not info.issym():
        os.chmod(path, info.mode)
    # After chown, which takes away capabilities.
    wanted = {
        key[len(XATTR) :]: value.encode("utf-8", _ESCAPE)
        for key, value in info.pax_headers.items()
        if key.startswith(XATTR)
    }
    if refused := [name for name in wanted if name.startswith(_OVERLAYS_OWN)]:
        raise tarfile.ReadError(f"{refused[0]} belongs to overlayfs")
    for name in os.listxattr(path, follow_symlinks=False):
        if name not in wanted and name not in _HOSTS_OWN:
            with suppress(OSError):
                os.removexattr(path, name, follow_symlinks=False)
    for name, value in wanted.items():
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            if name not in _HOSTS_OWN or error.errno not in _UNSUPPORTED:
                raise


def _mtime_ns(info: tarfile.TarInfo) -> int:
    text = info.pax_headers.get("mtime", str(info.mtime))
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)


def _translated(path: str, error: OSError) -> LivemigError:
    host = os.uname().nodename
    message = f"cannot write /{path} of the container on {host}: {error.strerror}"
    if error.errno in _NO_ROOM:
        return DiskFull(message, hint="make room there: `docker system df` shows what can go")
    return TargetError(message)
