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
from dataclasses import dataclass, replace

from livemig import calls, detour
from livemig.calls import Left, Timed
from livemig.errors import InternalError
from livemig.system.memory import Memory
from livemig.system.numbers import (
    NR_CLOCK_NANOSLEEP,
    NR_NANOSLEEP,
    NR_RESTART_SYSCALL,
    NR_RT_SIGTIMEDWAIT,
)
from livemig.system.procfs import read_text
from livemig.system.ptrace import Registers
from livemig.system.schedclock import last_ran
from livemig.system.timerlist import Timer, read_timers

_CODE = 64  # bytes before a call in which its number may be found
_ASLEEP = (NR_NANOSLEEP, NR_CLOCK_NANOSLEEP, NR_RT_SIGTIMEDWAIT)  # calls that nothing wakes early
_NEAR = 4_000_000  # ns by which the time when a thread last ran may be wrong
_LATE = 1_000_000  # ns between a thread's stop and our look at the clock, at most


@dataclass(frozen=True)
class Look:
    """A thread that sleeps in call ``number``; ``where`` names the place in the kernel."""

    number: int
    where: str
    timers: frozenset[Timer]
    taken: dict[int, int]  # when, by clock
    ran: int | None  # when it had run last, on CLOCK_MONOTONIC

    def entered(self, timed: Timed) -> int:
        """Return when the thread came to its call, at the latest, as far as it is known."""
        taken = self.taken[timed.clock]
        return taken if self.ran is None else taken - (self.taken[time.CLOCK_MONOTONIC] - self.ran)

    @property
    def may_be_woken(self) -> bool:
        """Tell whether the thread may have run since it came to the call."""
        return self.ran is None or self.number not in _ASLEEP


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
        same = early or registers.orig_rax == NR_RESTART_SYSCALL or self._in_detour()
        with _memory(self.tid) as memory:
            if not same or self._place != place:
                self._forget()
                self._place = place
                self.number = self._number(registers, look, memory)
            going_on = self.true(going_on)
            timed = calls.timed(going_on, memory, sticky=going_on.rax != registers.rax)
            if timed and timed.left is Left.NOBODY and detour.is_within(going_on, memory):
                timed = replace(timed, left=Left.DETOUR)
            self.timed = timed
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
        if self.timed is None or self.timed.left is not Left.MEMORY:
            return
        timed, left = self._left()
        # Its memory, or all of it, may have gone: then nobody will read it.
        with suppress(OSError), _memory(self.tid) as memory:
            memory.write(timed.address, calls.packed(left, timed.unit))

    def starts_over(self) -> bool:
        """Tell whether the call would wait for its whole time again."""
        return self.timed is not None and self.timed.left is Left.NOBODY

    def enter_detour(self, registers: Registers, way: detour.Way) -> Registers:
        """Return the registers for a way round for a call that starts over; see ``detour.enter``.

        The call's time-out is then ours to bring up to date.
        """
        timed, left = self._left()
        with _memory(self.tid) as memory:
            around = detour.enter(registers, timed, left, way, memory.write)
        self.timed = replace(timed, left=Left.DETOUR)
        self._place = (around.rip, around.rsp)
        return around

    def renewed(self, registers: Registers) -> Registers:
        """Return the registers of a stopped thread that waits for what is left by now."""
        if not self._in_detour():
            return registers
        timed, left = self._left()
        with _memory(self.tid) as memory:
            return detour.renewed(registers, timed, left, memory.write)

    def _in_detour(self) -> bool:
        return self.timed is not None and self.timed.left is Left.DETOUR

    def _left(self) -> tuple[Timed, int]:
        """Return the time-out, and the nanoseconds of it that are left by now."""
        if self.timed is None or self.deadline is None:
            raise InternalError(f"thread {self.tid} does not wait for a given time")
        return self.timed, self.deadline - time.clock_gettime_ns(self.timed.clock)

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
        elif timed.left is not Left.DETOUR or self.deadline is None:
            exact = look.number == NR_RESTART_SYSCALL and self.number in _ASLEEP
            self._candidates = self._known(timed, look) or [
                each
                for each in _vanished(timed, look, now)
                if not exact or each.soft == each.hard  # a sleep that goes on has no slack
            ]
            if self._candidates:
                self.deadline = self._candidates[0].soft
            elif self.deadline is None or self.deadline < now:
                self.deadline = min(look.entered(timed) + timed.length, latest)

    def _known(self, timed: Timed, look: Look) -> list[Timer]:
        """Return those of the earlier candidates that were armed again: one of them is its own.

        A sleep that goes on is armed with the later one of the two ends that it had.
        """
        shown = {timer.soft for timer in look.timers if timer.clock == timed.clock}
        return [each for each in self._candidates if {each.soft, each.hard} & shown]


def _vanished(timed: Timed, look: Look, now: int) -> list[Timer]:
    """Return timers that a stop has taken away, first the one that is the thread's most likely.

    Others wake up in the same moment. Its own was armed when it came to the call, which is when it
    ran last, unless something else has woken it meanwhile and it went on waiting. Where nothing
    tells, too late an end is less harm than one too early.
    """
    taken, entered = look.taken[timed.clock], look.entered(timed)
    found = [
        each
        for each in look.timers - read_timers()
        if each.clock == timed.clock
        and each.hard > now - _LATE
        and each.soft - timed.length <= taken
    ]
    slop = _LATE + _NEAR + (taken - entered) // 10  # its clock leaves out interrupts
    off = {each: abs(each.soft - timed.length - entered) for each in found}
    if near := [each for each in found if off[each] <= slop]:
        return sorted(near, key=lambda each: off[each])
    return sorted(found, key=lambda each: -each.soft) if look.may_be_woken else []


@contextmanager
def _memory(tid: int) -> Iterator[Memory]:
    memory = Memory(tid)
    try:
        yield memory
    finally:
        memory.close()


def _look(tid: int) -> Look | None:
    try:
        words = read_text(f"/proc/{tid}/syscall").split()
        if not words[0].isdigit() or not calls.has_time_out(int(words[0])):
            return None
        number = int(words[0])
        where = _where(tid) if number == NR_RESTART_SYSCALL else ""
    except (FileNotFoundError, ProcessLookupError):
        return None
    ran = last_ran(tid)
    timers = read_timers()
    clocks = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_TAI)
    taken = {clock: time.clock_gettime_ns(clock) for clock in clocks}
    return Look(number, where, timers, taken, ran)


def _where(tid: int) -> str:
    """Return the functions of the kernel in which a thread sleeps, as far as it tells."""
    found = ""
    for name in ("wchan", "stack"):
        try:
            found += read_text(f"/proc/{tid}/{name}")
        except OSError:  # a kernel without it, or one that does not say
            continue
    return found
