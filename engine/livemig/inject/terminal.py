"""What only the held process itself can do about its terminal."""

from __future__ import annotations

import signal
import struct
from itertools import count

from livemig.inject.held import F_DUPFD_CLOEXEC, Held
from livemig.model import Terminal
from livemig.stub import Table
from livemig.system import procfs
from livemig.system.numbers import NR_CLOSE, NR_FCNTL, NR_IOCTL, NR_OPENAT, NR_RT_SIGACTION
from livemig.system.ttys import TIOCNOTTY

_AT_FDCWD = -100
_SIGACTION = struct.Struct("=QQQQ")
_IGNORED, _DEFAULT = (_SIGACTION.pack(handler, 0, 0, 0) for handler in (1, 0))


def open_own(held: Held, table: Table, flags: int, number: int) -> None:
    """Add calls that open the controlling terminal as ``number``, which is above all others.

    No call of the table before may leave a lower number open that was not.
    """
    taken = procfs.descriptors(held.pid)
    lowest = next(each for each in count() if each not in taken)
    path = table.place(b"/dev/tty\0")
    table.call("open /dev/tty", NR_OPENAT, _AT_FDCWD, path, flags)
    table.call("dup", NR_FCNTL, lowest, F_DUPFD_CLOEXEC, number)
    table.call(f"close {lowest}", NR_CLOSE, lowest)


def settle_terminal(held: Held, wanted: Terminal) -> None:
    """Give the controlling terminal up where the source had, and forget the signals of all this.

    The new size and the giving up have sent some. Ignoring a signal drops what is pending of it.
    """
    table = held.stub.table()
    if not wanted.controlling:
        table.call("TIOCNOTTY", NR_IOCTL, held.streams[0], TIOCNOTTY)
    ignored, default = table.place(_IGNORED), table.place(_DEFAULT)
    for number in (signal.SIGWINCH, signal.SIGHUP, signal.SIGCONT):
        for action in (ignored, default):
            table.call(f"rt_sigaction {number}", NR_RT_SIGACTION, number, action, 0, 8)
    held.stub.run(table)
