"""A container's standard input: what is unread in it, and what still comes."""

from __future__ import annotations

import errno
import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from livemig.errors import TransferError
from livemig.model import Role
from livemig.system import handles, procfs

_ROOM = 1 << 20
_CHUNK = 64 << 10


class LateInput(Protocol):
    """What comes into the standard input of a container that has left."""

    def rest(self, timeout: float) -> Iterator[bytes]:
        """Yield it until nobody can write any more; TransferError after ``timeout`` seconds."""


def find_stream(pid: int, streams: dict[int, Role]) -> int | None:
    """Return a descriptor of ours that reads the process's standard input, None without one."""
    inodes = [inode for inode, role in streams.items() if role is Role.STDIN]
    for number in procfs.descriptors(pid):
        path = f"/proc/{pid}/fd/{number}"
        with suppress(FileNotFoundError):  # who runs may have closed it since
            if os.stat(path).st_ino in inodes:
                return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def make_room(writer: int, size: int) -> None:
    """Have a pipe hold so many bytes; whoever made it may have enlarged it. Raises OSError."""
    if size > fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)


class UnreadInput:
    """Reads a frozen container's standard input without taking from it what it may still want."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._peeked = 0

    def peek(self) -> tuple[bytes, bool]:
        """Return what is unread, and whether nobody can write any more; nothing is consumed."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _ROOM)
            try:
                count = handles.tee(self._descriptor, writer, _ROOM)
            except BlockingIOError:
                count = 0
            data = os.read(reader, count) if count else b""
            while len(data) < count:
                data += os.read(reader, count - len(data))
        finally:
            os.close(reader)
            os.close(writer)
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        ended = any(event & select.POLLHUP for _, event in poller.poll(0))
        self._peeked = len(data)
        return data, ended

    def rest(self, timeout: float) -> Iterator[bytes]:
        """Yield what came after ``peek``, until nobody can write any more.

        TransferError where that does not happen within ``timeout`` seconds of silence.
        """
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        while poller.poll(timeout * 1000):
            data = os.read(self._descriptor, self._peeked or _CHUNK)
            if not data:
                return
            if self._peeked:
                self._peeked -= len(data)
            else:
                yield data
        raise TransferError("the standard input of the source was not closed")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def inode(descriptor: int | None) -> int:
    """Return what tells the standard input's pipe from every other; 0 without one."""
    return os.fstat(descriptor).st_ino if descriptor is not None else 0


def reopen(pid: int, number: int) -> int | None:
    """Return a new writer of the pipe with inode ``number``, found by who still has it open.

    That is process ``pid``, or its parent, which fills it. None where neither has it.
    """
    for owner in (pid, int(procfs.read_status(pid)["PPid"])):
        for descriptor in procfs.descriptors(owner):
            path = f"/proc/{owner}/fd/{descriptor}"
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino == number:
                    return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def feed(descriptor: int, data: bytes, timeout: float) -> int:
    """Write to a pipe, or a terminal's master, that does not block, waiting for room.

    Returns the number of bytes that got none, or that nobody is there to read any more.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    while data and poller.poll(timeout * 1000):
        try:
            data = data[os.write(descriptor, data[:_CHUNK]) :]
        except BlockingIOError:  # somebody else has taken the room
            continue
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            break
    return len(data)
