"""Signals that come to a process whose state has left already: its copy would never get them."""

from __future__ import annotations

import signal

from livemig.errors import Cancelled
from livemig.model import Process
from livemig.system import procfs

_NUMBERS = range(1, 65)


def expected(process: Process) -> int:
    """Return the mask of the signals that the copy will have, bit n-1 for signal n.

    They were pending when the state was read, or come from timers, which go on there.
    """
    pending = [*process.pending, *(info for each in process.threads for info in each.pending)]
    numbers = {int.from_bytes(info[:4], "little") for info in pending}
    numbers |= {timer.signal for timer in process.timers}
    if any(process.interval_timers[signal.ITIMER_REAL]):
        numbers.add(signal.SIGALRM)
    return sum(1 << number - 1 for number in numbers if number in _NUMBERS)


def refuse(pid: int, known: int) -> None:
    """Raise Cancelled, naming it, for a signal that waits and is not of the mask ``known``.

    ``pid`` is a process of one thread.
    """
    try:
        status = procfs.read_status(pid)
    except (FileNotFoundError, ProcessLookupError):
        return  # it has ended, which is looked at elsewhere
    if new := (int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)) & ~known:
        names = ", ".join(_name(number) for number in _NUMBERS if new >> number - 1 & 1)
        raise Cancelled(
            f"process {pid} was sent {names} when its state had left already",
            hint="it runs on, and gets the signal; move it again",
        )


def _name(number: int) -> str:
    return signal.Signals(number).name if number < signal.SIGRTMIN else f"signal {number}"
