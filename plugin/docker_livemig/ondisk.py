"""What outlives a loss of power: names and content that are on the disk when a call returns."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from livemig.system.libc import syscall
from livemig.system.numbers import NR_SYNCFS


def make_directory(path: Path) -> None:
    """Have a directory that root alone may enter, and its name on the disk. Raises OSError."""
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(path.parent)
        sync_directory(path.parent.parent)


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Put a file in place in one step; one that exists keeps its owner and mode. Raises OSError.

    A symbolic link stays, and leads to the new one. FileExistsError where that is no file.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "something else than a file is there", str(path))
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if path.exists():
                was = path.stat()
                mode = stat.S_IMODE(was.st_mode)
                os.fchown(handle, was.st_uid, was.st_gid)
            os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path | str) -> None:
    """Have a directory's own names on the disk. Raises OSError."""
    _sync(path, os.O_DIRECTORY)


def sync_files(paths: Iterable[str]) -> None:
    """Have files and directories on the disk; links and devices are names of their directory.

    What is gone, or another thing by now, is left out. Raises OSError.
    """
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                _sync(path, os.O_NOFOLLOW)


def sync_file_system(path: Path | str) -> None:
    """Have all on the disk that was written to the file system of ``path`` (syncfs(2)).

    Of an overlay that is the one which has its upper directory. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscall(NR_SYNCFS, descriptor, what=f"writing back the file system of {path}")
    finally:
        os.close(descriptor)


def _sync(path: Path | str, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
