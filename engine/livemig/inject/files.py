"""Open what the arriving processes have open, and put it in place."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from livemig.errors import NotCarried, ProtocolError, StateMismatch
from livemig.extract.files import MAX_PASSED
from livemig.inject.held import F_DUPFD_CLOEXEC, Held
from livemig.inject.terminal import open_own
from livemig.model import Description, Image, Opened, Process, Role
from livemig.stdin import make_room
from livemig.stub import Table
from livemig.system import handles, procfs, ttys
from livemig.system.numbers import NR_CLOSE, NR_DUP3, NR_FCNTL
from livemig.terminal import Pty

_F_SETFL = 4
_O_CLOEXEC = 0o2000000
_MAKING = os.O_CREAT | os.O_EXCL | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
_STATUS_FLAGS = os.O_APPEND | os.O_NONBLOCK | os.O_NOATIME | os.O_DIRECT
_CONSOLE = "/dev/console"
_ROLES = (Role.STDIN, Role.STDOUT, Role.STDERR)


@contextmanager
def opened_descriptions(
    held: Held, image: Image, root: int, terminal: Pty | None = None
) -> Iterator[list[int]]:
    """Open every description of ``image`` below the directory ``root``, once.

    Yields a descriptor for each, -1 for the container's standard streams, which the held process
    has already, and for /dev/tty, which only that process can open; a standard input that has ended
    is a pipe of ours with what is unread in it.
    """
    found: list[int] = []
    streams = _Streams(held, image)
    try:
        for description in image.descriptions:
            if description.kind is Opened.STREAM:
                found.append(streams.open(description))
            else:
                found.append(_open(description, root, terminal))
        yield found
    finally:
        for descriptor in found:
            if descriptor >= 0:
                os.close(descriptor)


class _Streams:
    """The container's standard streams, of which a process may have several open descriptions.

    The first that can be is the held process's own. The others are opened again from outside: each
    has its own flags, and may be open for another use (`exec 0<>/dev/stdin`).
    """

    def __init__(self, held: Held, image: Image) -> None:
        self._held = held
        self._image = image
        self._taken: dict[Role, str] = {}

    def open(self, description: Description) -> int:
        """Return a descriptor of it, -1 where the held process has it."""
        role = description.role or Role.STDIN
        if role in self._taken:
            return _open_again(self._taken[role], description)
        if role is Role.STDIN and self._image.stdin_ended:
            reader = _ended_input(self._image.stdin)
            self._taken[role] = f"/proc/self/fd/{reader}"
            return reader
        number = self._held.streams[_ROLES.index(role)]
        self._taken[role] = place = f"/proc/{self._held.pid}/fd/{number}"
        flags = procfs.open_flags(self._held.pid, number)
        same = (flags ^ description.flags) & os.O_ACCMODE == 0
        return -1 if same else _open_again(place, description)


def _open_again(place: str, description: Description) -> int:
    """Open a pipe once more, without waiting for its other end; its flags are set later."""
    flags = description.flags & (os.O_ACCMODE | os.O_PATH)
    return os.open(place, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _open(description: Description, root: int, terminal: Pty | None) -> int:
    if description.kind is Opened.TERMINAL:
        return _open_terminal(description, root, terminal)
    # Looked at before it is opened: a FIFO would wait for a writer, a device may do anything.
    place = handles.open_in_root(root, description.path, os.O_PATH)
    try:
        _check_kind(description, os.fstat(place))
    finally:
        os.close(place)
    flags = description.flags & ~_MAKING
    if description.kind is Opened.DIRECTORY:
        flags |= os.O_DIRECTORY
    descriptor = handles.open_in_root(root, description.path, flags)
    if description.position:
        os.lseek(descriptor, description.position, os.SEEK_SET)
    return descriptor


def _check_kind(description: Description, status: os.stat_result) -> None:
    if description.kind is Opened.DEVICE and status.st_rdev != description.device:
        raise NotCarried(f"{description.path} is another device on the target")
    if description.kind is Opened.FILE and not stat.S_ISREG(status.st_mode):
        raise NotCarried(f"{description.path} is no regular file on the target")
    if description.kind is Opened.DIRECTORY and not stat.S_ISDIR(status.st_mode):
        raise NotCarried(f"{description.path} is no directory on the target")


def _open_terminal(description: Description, root: int, terminal: Pty | None) -> int:
    if description.is_own_terminal:
        return -1
    if terminal is None:
        raise StateMismatch(f"{description.path} is a terminal, but the target has none")
    flags = description.flags & ~_MAKING
    if description.path != _CONSOLE:
        return ttys.open_slave(terminal.master, flags)
    descriptor = handles.open_in_root(root, _CONSOLE, flags | os.O_NOCTTY)
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != terminal.identity():
        os.close(descriptor)
        raise StateMismatch(f"{_CONSOLE} is not the container's terminal on the target")
    return descriptor


def _ended_input(unread: bytes) -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(writer, False)
        make_room(writer, len(unread))
        if unread and os.write(writer, unread) < len(unread):
            raise ProtocolError(f"{len(unread)} bytes of standard input fit no pipe")
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return reader


def install_descriptors(held: Held, process: Process, image: Image, opened: Sequence[int]) -> None:
    """Give ``process`` its descriptors at their numbers; the held process keeps its own apart.

    Received descriptors first move above every number that is wanted, then to their places.
    """
    wanted = [descriptor.number for descriptor in process.descriptors]
    needed = sorted({descriptor.description for descriptor in process.descriptors})
    passed = [index for index in needed if opened[index] >= 0]
    if len(passed) > MAX_PASSED or set(wanted) & set(held.own_numbers()):
        raise NotCarried(
            f"process {process.pid} has descriptors that are too many, or numbered too high",
            hint=f"this version carries {MAX_PASSED} descriptors with numbers below 1008",
        )
    table = held.stub.table()
    received = held.pass_descriptors(table, [opened[index] for index in passed])
    above = max([*wanted, *received, *held.own_numbers()], default=0) + 1
    moved = len(passed) + sum(image.descriptions[index].is_own_terminal for index in needed)
    if above + moved > held.limit:
        raise NotCarried(
            f"process {process.pid} has {len(needed)} files open, and {held.limit} descriptors are "
            f"too few to put them in place",
            hint="raise its hard limit (`--ulimit nofile`)",
        )
    place: dict[int, int] = {}
    own: list[int] = []
    for offset, (index, number) in enumerate(zip(passed, received, strict=True)):
        place[index] = above + offset
        table.call("dup", NR_FCNTL, number, F_DUPFD_CLOEXEC, above + offset)
        table.call(f"close {number}", NR_CLOSE, number)
    for index in needed:
        description = image.descriptions[index]
        if description.is_own_terminal:
            place[index] = above + len(passed) + len(own)
            own.append(place[index])
            open_own(held, table, description.flags & ~_MAKING, place[index])
        elif index not in place and description.role is not None:
            place[index] = held.streams[_ROLES.index(description.role)]
        _set_flags(table, place[index], description)
    for descriptor in process.descriptors:
        flags = _O_CLOEXEC if descriptor.close_on_exec else 0
        table.call(
            f"dup3 to {descriptor.number}",
            NR_DUP3,
            place[descriptor.description],
            descriptor.number,
            flags,
        )
    for number in (*(place[index] for index in passed), *own):
        table.call("close", NR_CLOSE, number)
    held.stub.run(table)


def _set_flags(table: Table, number: int, description: Description) -> None:
    if description.kind is Opened.STREAM:
        table.call("F_SETFL", NR_FCNTL, number, _F_SETFL, description.flags & _STATUS_FLAGS)
