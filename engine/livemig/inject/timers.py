"""Make the POSIX timers of a process again, with their numbers and what was left on them."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence

from livemig.errors import NotCarried, StateMismatch
from livemig.extract.timers import SIGEV_NONE
from livemig.inject.held import Held
from livemig.model import Process, Timer
from livemig.stub import Table
from livemig.system import ptrace
from livemig.system.numbers import (
    NR_PRCTL,
    NR_RT_SIGTIMEDWAIT,
    NR_TIMER_CREATE,
    NR_TIMER_DELETE,
    NR_TIMER_SETTIME,
)

SI_TIMER = -2
_PR_TIMER_CREATE_RESTORE_IDS = 77  # Linux 6.15 on
_ABSOLUTE = 1
_BATCH = 300  # of calls with their buffers, a table
_MOST = 100_000
_BILLION = 1_000_000_000
_PATIENCE = struct.pack("=qq", 0, 50_000_000)
_AT_ONCE = 1  # ns
_LIMIT, _PAUSE = 5.0, 0.0001


def create_timers(held: Held, timers: Sequence[Timer]) -> None:
    """Create ``timers``, which stand still; NotCarried where a number or clock cannot be had."""
    if not timers:
        return
    table = held.stub.table()
    arguments = (_PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0)
    chosen = table.call("prctl to choose timer IDs", NR_PRCTL, *arguments, may_fail=True)
    if held.stub.run(table)[chosen] < 0:
        _count_up(held, timers)
        return
    for first in range(0, len(timers), _BATCH):
        table = held.stub.table()
        places = [_add_create(table, timer) for timer in timers[first : first + _BATCH]]
        held.stub.run(table)
        _check(held, timers[first : first + _BATCH], places)
    table = held.stub.table()
    table.call("prctl to choose timer IDs no more", NR_PRCTL, arguments[0], 0, 0, 0, 0)
    held.stub.run(table)


def _count_up(held: Held, timers: Sequence[Timer]) -> None:
    """Let the kernel count up to each number: before Linux 6.15 it gives them in order."""
    following = 0
    for timer in sorted(timers, key=lambda each: each.number):
        if timer.number > _MOST:
            raise NotCarried(
                f"process {held.pid}: POSIX timer {timer.number} has too high a number",
                hint=f"this kernel counts up to it one by one; {_MOST} is the limit",
            )
        while following < timer.number:
            table = held.stub.table()
            for number in range(following, min(timer.number, following + _BATCH)):
                place = _add_create(table, Timer(number, 1, SIGEV_NONE, 0, 0, 0, 0, 0, 0, 0))
                table.call("timer_delete", NR_TIMER_DELETE, number)
            held.stub.run(table)
            following = number + 1
        table = held.stub.table()
        place = _add_create(table, timer)
        held.stub.run(table)
        _check(held, [timer], [place])
        following = timer.number + 1


def _add_create(table: Table, timer: Timer) -> int:
    event = struct.pack("=Qiii44x", timer.value, timer.signal, timer.notify, timer.thread)
    place = table.place(struct.pack("=i", timer.number))
    what = f"timer_create {timer.number} by clock {timer.clock}"
    table.call(what, NR_TIMER_CREATE, timer.clock, table.place(event), place)
    return place


def _check(held: Held, timers: Sequence[Timer], places: Sequence[int]) -> None:
    for timer, place in zip(timers, places, strict=True):
        found = int.from_bytes(held.memory.read(place, 4), "little", signed=True)
        if found != timer.number:
            raise StateMismatch(f"process {held.pid}: timer {timer.number} was made as {found}")


def arm_timers(held: Held, process: Process) -> None:
    """Let timers go on, but those whose signal waits: they expire when it is queued again."""
    threads = (info for thread in process.threads for info in thread.pending)
    waiting = {timer_of(info) for info in (*process.pending, *threads)}
    going = [timer for timer in process.timers if timer.left and timer.number not in waiting]
    for first in range(0, len(going), _BATCH):
        table = held.stub.table()
        for timer in going[first : first + _BATCH]:
            if timer.overruns and timer.interval and timer.expires and timer.signal:
                _add_overrun(table, timer)
            elif timer.expires:
                _add_set(table, timer, _ABSOLUTE, timer.expires)
            else:
                _add_set(table, timer, 0, timer.left)
        held.stub.run(table)


def queue_signals(
    held: Held, process: Process, pending: Sequence[bytes], call: int, *receiver: int
) -> None:
    """Queue ``pending`` signals (siginfos) again, by system call ``call`` and in their order.

    Those of timers come from the timers, so that the kernel knows that they belong together.
    """
    timers: dict[int | None, Timer] = {timer.number: timer for timer in process.timers}
    last = {info[:4]: place for place, info in enumerate(pending)}
    table = held.stub.table()
    for place, info in enumerate(pending):
        number = int.from_bytes(info[:4], "little")
        timer = timers.get(timer_of(info))
        if timer is None:
            table.call(f"queueing signal {number}", call, *receiver, number, table.place(info))
        else:
            _add_expired(table, timer)
        followed = timer is not None and place < last[info[:4]]
        if followed or len(table) == _BATCH:
            held.stub.run(table)
            table = held.stub.table()
        if timer is not None and followed:
            _await_expiry(held, timer.number)
    if len(table):
        held.stub.run(table)


def _await_expiry(held: Held, number: int) -> None:
    """Wait until the signal of a timer is queued, which an interrupt does, before the next one is.

    Nothing tells of that but the queue.
    """
    deadline = time.monotonic() + _LIMIT
    while not any(
        timer_of(info) == number
        for shared in (False, True)
        for info in ptrace.pending_signals(held.pid, shared=shared)
    ):
        if time.monotonic() > deadline:
            raise StateMismatch(f"process {held.pid}: timer {number} does not expire")
        time.sleep(_PAUSE)


def _add_overrun(table: Table, timer: Timer) -> None:
    """Arm a timer so that it has the overruns that it told last, and goes on in its rhythm.

    It is set to have expired so many times already, and the signal taken away: the kernel counts
    overruns when a signal is delivered (kernel/time/posix-timers.c). An expiry that comes before
    counts as one more, and so is not lost.
    """
    first = timer.expires - (timer.overruns + 1) * timer.interval
    _add_set(table, timer, _ABSOLUTE, max(first, 1))
    wanted = table.place(struct.pack("=Q", 1 << (timer.signal - 1)))
    patience = table.place(_PATIENCE)
    table.call("rt_sigtimedwait", NR_RT_SIGTIMEDWAIT, wanted, 0, patience, 8, may_fail=True)


def timer_of(info: bytes) -> int | None:
    """Return the number of the timer that a siginfo tells of, if one does."""
    _, _, code, number = struct.unpack_from("=iii4xi", info)
    return number if code == SI_TIMER else None


def _add_expired(table: Table, timer: Timer) -> None:
    """Add the call that lets a timer expire at once: its signal was pending, and is so again.

    A periodic one keeps its rhythm; its overruns count from its last expiry on, because the
    kernel does not tell those of a signal that waits.
    """
    if timer.interval and timer.expires > timer.interval:
        _add_set(table, timer, _ABSOLUTE, timer.expires - timer.interval)
    else:
        _add_set(table, timer, 0, _AT_ONCE)


def _add_set(table: Table, timer: Timer, flags: int, value: int) -> None:
    times = (*divmod(timer.interval, _BILLION), *divmod(value, _BILLION))
    place = table.place(struct.pack("=4q", *times))
    what = f"timer_settime {timer.number}"
    table.call(what, NR_TIMER_SETTIME, timer.number, flags, place, 0)
