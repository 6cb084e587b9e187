"""A container's terminal, held by both its ends from outside.

Whoever made the container (Docker's shim, the parent of its first process) has the master, the
processes have the slave. Nothing of the terminal is changed on the source before the commit: what
is typed stays where it is, so that a move which is undone has nothing to put back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from livemig.errors import NotCarried, ProtocolError, StateMismatch
from livemig.model import Terminal
from livemig.system import handles, procfs, ttys

_PGRP, _SESSION = 4, 5  # fields of /proc/PID/stat, from 0
_MASTER_NAME = "ptmx"


@dataclass
class Pty:
    """Both ends of the terminal; ``keeper`` is the process that the master belongs to."""

    keeper: int
    master: int
    slave: int

    def close(self) -> None:
        """Close both ends; may be called again."""
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)
        self.master = self.slave = -1

    def identity(self) -> tuple[int, int]:
        """Return device and inode of the slave's file."""
        status = os.fstat(self.slave)
        return status.st_dev, status.st_ino

    def kept(self) -> bool:
        """Tell whether its keeper still has the master open."""
        own = (os.getpid(), self.master)
        for number in _masters(self.keeper):
            with suppress(OSError):  # closed meanwhile
                place = (self.keeper, number)
                if place != own and handles.same_description(*place, *own):
                    return True
        return False


def find(pid: int) -> Pty | None:
    """Return the terminal of a container's first process, None where it has none.

    That is the one that controls its session or, where none does, one that it has open.
    """
    keeper = int(procfs.read_status(pid)["PPid"])
    try:
        pidfd = os.pidfd_open(keeper)
    except OSError:  # the container's maker is outside of what can be seen
        return None
    try:
        for number in _masters(keeper):
            with suppress(OSError):  # closed meanwhile
                master = handles.fetch_descriptor(pidfd, number)
                if (pty := _of_process(pid, keeper, master)) is not None:
                    return pty
    finally:
        os.close(pidfd)
    return None


def _masters(keeper: int) -> list[int]:
    found = []
    with suppress(OSError):  # the keeper has ended
        for number in procfs.descriptors(keeper):
            with suppress(OSError):
                if os.readlink(f"/proc/{keeper}/fd/{number}").endswith(_MASTER_NAME):
                    found.append(number)
    return found


def _of_process(pid: int, keeper: int, master: int) -> Pty | None:
    """Return the pseudo-terminal of a master if it is the process's; takes the descriptor over."""
    pty = Pty(keeper, master, -1)
    try:
        if ttys.is_master(master):
            pty.slave = ttys.open_slave(master, os.O_RDWR | os.O_NONBLOCK)
            if _controls(pid, pty) or _is_open(pid, pty):
                return Pty(keeper, pty.master, pty.slave)
        pty.close()
    except BaseException:
        pty.close()
        raise
    return None


def _controls(pid: int, pty: Pty) -> bool:
    return ttys.session(pty.master) == int(procfs.read_stat(pid)[_SESSION])


def _is_open(pid: int, pty: Pty) -> bool:
    wanted = pty.identity()
    for number in procfs.descriptors(pid):
        status = os.stat(f"/proc/{pid}/fd/{number}")
        if (status.st_dev, status.st_ino) == wanted:
            return True
    return False


def read(pid: int, pty: Pty) -> Terminal:
    """Return the terminal of process ``pid``; NotCarried where it is in a state that is not."""
    status = os.fstat(pty.slave)
    stat = procfs.read_stat(pid)
    controlling = _controls(pid, pty)
    if int(stat[_PGRP]) != pid or int(stat[_SESSION]) != pid:
        raise NotCarried(f"process {pid} has a terminal, but does not lead its session and group")
    if controlling and ttys.foreground_group(pty.master) != pid:
        raise NotCarried(
            f"process {pid}: the foreground group of its terminal is not its own",
            hint="try again when the command that it has started has ended",
        )
    if ttys.discipline(pty.slave) != ttys.N_TTY:
        raise NotCarried(f"process {pid}: its terminal has another line discipline than N_TTY")
    if ttys.has_locked_settings(pty.slave):
        raise NotCarried(f"process {pid}: settings of its terminal are locked (TIOCSLCKTRMIOS)")
    return Terminal(
        settings=ttys.settings(pty.slave).pack(),
        window=ttys.window(pty.slave),
        exclusive=ttys.exclusive(pty.slave),
        owner=(status.st_uid, status.st_gid),
        mode=status.st_mode & 0o7777,
        controlling=controlling,
    )


@contextmanager
def looked_at(pid: int) -> Iterator[Pty | None]:
    """Yield the terminal of a process, if it has one; NotCarried where that cannot be carried."""
    if (pty := find(pid)) is None:
        yield None
        return
    with closing(pty):
        read(pid, pty)
        yield pty


def apply(pty: Pty, wanted: Terminal) -> None:
    """Give the terminal the settings, size, owner and mode of another."""
    try:
        settings = ttys.Settings.unpack(wanted.settings)
    except ValueError as error:
        raise ProtocolError(f"received a terminal that is not valid: {error}") from error
    if len(wanted.window) != ttys.WINDOW_SIZE:
        raise ProtocolError(f"received a window size of {len(wanted.window)} bytes")
    os.fchown(pty.slave, *wanted.owner)
    os.fchmod(pty.slave, wanted.mode)
    ttys.set_settings(pty.slave, settings)
    if (found := ttys.settings(pty.slave)) != settings:
        raise StateMismatch(f"the terminal took the settings {found}, not {settings}")
    ttys.set_window(pty.slave, wanted.window)
    if wanted.exclusive:
        ttys.set_exclusive(pty.slave)
