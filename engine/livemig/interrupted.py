"""Which call a thread was in when it was stopped, and until when it would have waited.

The first stop of a thread tells the number of the call; from then on it shows restart_syscall. It
does not tell the end of a relative time-out, and nor does any interface of the kernel for a thread
of another: but the timer that a thread sleeps on vanishes from the list of all timers when it
stops, and comes back with the same end when it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from livemig import calls
from livemig.calls import Left, Timed
from livemig.system.memory import Memory
from livemig.system.numbers import NR_RESTART_SYSCALL
from livemig.system.ptrace import Registers
from livemig.system.timerlist import Timer, read_timers

_CODE = 64  # bytes before a call in which its number may be found
_LATE = 1_000_000  # ns between a thread's stop and our look at the clock, at most


@dataclass(frozen=True)
class Look:
    """A thread that sleeps in call ``number``; ``where`` names the place in the kernel."""

    number: int
    where: str
    timers: frozenset[Timer]
    taken: dict[int, int]  # when, by clock


class Interruption:
    """What is known of the call that one thread is in, over several stops.

    Before each stop comes ``look``, at the stop ``stopped``. ``number`` is the call's, ``deadline``
    the end of its relative time-out in ns on ``timed.clock``; both None where there is none.
    """

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.number: int | None = None
        self.timed: Timed | None = None
        self.deadline: int | None = None
        self._code = 0
        self._place: tuple[int, int] | None = None
        self._candidates: list[Timer] = []
        self._look: Look | None = None

    def look(self) -> None:
        """Look at the thread while it runs or sleeps: cheap, unless it sleeps for a given time."""
        self._look = _look(self.tid)

    def stopped(self, registers: Registers) -> Registers:
        """Take in the registers of a stop; returns those with which the thread is to go on."""
        look, self._look = self._look, None
        early = self._is_back(registers)
        if early:
            registers = calls.not_restarted(registers, self.number or 0, self._code)
        going_on = calls.as_interrupted(registers)
        self._code = calls.interruption(going_on)
        if not self._code:
            self._forget()
            return registers
        place = (registers.rip, registers.rsp)
        same = early or registers.orig_rax == NR_RESTART_SYSCALL
        with _memory(self.tid) as memory:
            if not same or self._place != place:
                self._forget()
                self._place = place
                self.number = self._number(registers, look, memory)
            going_on = self.true(going_on)
            self.timed = calls.timed(going_on, memory, sticky=going_on.rax != registers.rax)
        if self.timed is not None:
            self._find_end(self.timed, look)
        return going_on

    def _is_back(self, registers: Registers) -> bool:
        """Tell whether the thread was let go on with its call, and has not come to it yet.

        A signal that waits for it must interrupt the call, not come before it.
        """
        if self.number is None or (registers.rip + 2, registers.rsp) != self._place:
            return False
        return bool(registers.rax == calls.restart_number(self.number, self._code))

    def true(self, registers: Registers) -> Registers:
        """Return registers with the number of the call that an earlier stop has hidden."""
        hidden = registers.orig_rax == NR_RESTART_SYSCALL and self.number is not None
        if not hidden or (registers.rip, registers.rsp) != self._place:
            return registers
        shown = registers.copy()
        shown.orig_rax = self.number
        return shown

    def refresh(self) -> None:
        """Write what is left by now where the kernel had written what was left at the stop."""
        if self.timed is None or self.timed.left is not Left.MEMORY or self.deadline is None:
            return
        left = self.deadline - time.clock_gettime_ns(self.timed.clock)
        # Its memory, or all of it, may have gone: then nobody will read it.
        with suppress(OSError), _memory(self.tid) as memory:
            memory.write(self.timed.address, calls.packed(left, self.timed.unit))

    def _forget(self) -> None:
        self.number = self.timed = self.deadline = self._place = None
        self._candidates = []

    def _number(self, registers: Registers, look: Look | None, memory: Memory) -> int | None:
        if registers.orig_rax != NR_RESTART_SYSCALL:
            return int(registers.orig_rax)
        try:
            code = memory.read(registers.rip - 2 - _CODE, _CODE)
        except OSError:  # its page begins here
            code = b""
        return calls.guess_number(registers, "" if look is None else look.where, code)

    def _find_end(self, timed: Timed, look: Look | None) -> None:
        now = time.clock_gettime_ns(timed.clock)
        latest = min(now + timed.length, calls.NEVER)
        if timed.left is Left.MEMORY:
            self.deadline = latest
        elif look is None or look.number not in (self.number, NR_RESTART_SYSCALL):
            self.deadline = self.deadline or latest  # it has come to the call since the look
        else:
            self._candidates = self._narrow(timed, look, now)
            # Too late is less harm than too early, where several may be the one.
            ends = [timer.soft for timer in self._candidates]
            self.deadline = max(ends, default=self.deadline or latest)

    def _narrow(self, timed: Timed, look: Look, now: int) -> list[Timer]:
        """Return the timers of which one is the thread's: those that the stop took away.

        A sleep that goes on is armed with the later one of the two ends that it had.
        """
        shown = {timer.soft for timer in look.timers if timer.clock == timed.clock}
        known = [each for each in self._candidates if {each.soft, each.hard} & shown]
        if len(known) == 1:
            return known
        gone = [each for each in look.timers - read_timers() if each.clock == timed.clock]
        if known:
            ends = {each.soft for each in gone}
            return [each for each in known if {each.soft, each.hard} & ends] or known
        return [
            each
            for each in gone
            if each.hard > now - _LATE and each.soft - timed.length <= look.taken[timed.clock]
        ]


@contextmanager
def _memory(tid: int) -> Iterator[Memory]:
    memory = Memory(tid)
    try:
        yield memory
    finally:
        memory.close()


def _look(tid: int) -> Look | None:
    try:
        words = Path(f"/proc/{tid}/syscall").read_text(encoding="ascii").split()
        if not words[0].isdigit() or not calls.has_time_out(int(words[0])):
            return None
        number = int(words[0])
        where = _where(tid) if number == NR_RESTART_SYSCALL else ""
    except (FileNotFoundError, ProcessLookupError):
        return None
    timers = read_timers()
    clocks = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
    return Look(number, where, timers, {clock: time.clock_gettime_ns(clock) for clock in clocks})


def _where(tid: int) -> str:
    """Return the functions of the kernel in which a thread sleeps, as far as it tells."""
    found = ""
    for name in ("wchan", "stack"):
        try:
            found += Path(f"/proc/{tid}/{name}").read_text(encoding="ascii")
        except OSError:  # a kernel without it, or one that does not say
            continue
    return found
