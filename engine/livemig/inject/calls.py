"""Let a rebuilt thread go on with the call that it was in, for the time that was left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from livemig import calls, detour, xstate
from livemig.calls import Left, Timed, Unit
from livemig.infect import MAP_PRIVATE_ANONYMOUS, find_gadgets
from livemig.inject.held import Held
from livemig.model import Deadline, Thread
from livemig.system import procfs
from livemig.system.memory import PAGE_SIZE
from livemig.system.numbers import NR_CLOCK_NANOSLEEP, NR_FUTEX, NR_MMAP, NR_NANOSLEEP, NR_POLL
from livemig.system.procfs import PROT_EXEC, PROT_READ, PROT_WRITE
from livemig.system.ptrace import Registers

_WORD = (1 << 64) - 1
# By registers, the place of a struct timespec with what is left, and the same in nanoseconds.
_ARGUMENTS: dict[int, Callable[[Registers, int, int], tuple[int, ...]]] = {
    NR_NANOSLEEP: lambda was, place, _: (place, was.rsi),
    NR_CLOCK_NANOSLEEP: lambda was, place, _: (was.rdi, 0, place, was.r10),
    NR_POLL: lambda was, _, left: (was.rdi, was.rsi, -(-left // Unit.MILLIS.value)),
    NR_FUTEX: lambda was, place, _: (was.rdi, was.rsi, was.rdx, place),
}


def going_on(held: Held, thread: Thread) -> Registers:
    """Return the registers with which the thread goes on, its memory and its clocks being there.

    The thread itself makes a call that only the kernel can go on with, and is interrupted in it: it
    must make no other call that waits until it has these registers. Raises InternalError.
    """
    registers = Registers.from_buffer_copy(thread.registers)
    code = calls.interruption(registers)
    if not code:
        return registers
    timed = calls.timed(registers, held.memory)
    if timed is not None and timed.left is Left.MEMORY and not _can_write(held.pid, timed.address):
        timed = replace(timed, left=Left.NOBODY)  # the kernel could not say either what was left
    if timed is not None and thread.deadline is not None:
        left = thread.deadline.at - _now(held.pid, thread.deadline)
        if code == calls.ERESTART_RESTARTBLOCK and registers.orig_rax in _ARGUMENTS:
            return _made_anew(held, registers, max(left, 0))
        if timed.left is Left.MEMORY:
            held.memory.write(timed.address, calls.packed(left, timed.unit))
        elif detour.is_within(registers, held.memory):
            return detour.renewed(registers, timed, left, held.memory.write)
        elif timed.left is Left.NOBODY:
            return _made_elsewhere(held, thread, timed, left)
    if code == calls.ERESTART_RESTARTBLOCK:  # without a time-out, or until a given time
        return calls.with_code(registers, calls.ERESTARTNOHAND)
    return registers


def _can_write(pid: int, address: int) -> bool:
    return any(
        area.start <= address < area.end and area.prot & PROT_WRITE
        for area in procfs.read_areas(pid)
    )


def _now(pid: int, deadline: Deadline) -> int:
    monotonic, boottime = procfs.clock_offsets(pid)
    offset = boottime if deadline.clock == time.CLOCK_BOOTTIME else monotonic
    return time.clock_gettime_ns(deadline.clock) + offset


def _made_anew(held: Held, registers: Registers, left: int) -> Registers:
    """Make the call for the time that is left, and interrupt it: the kernel knows its end then."""
    place = held.stub.table().room(16)
    held.memory.write(place, calls.packed(left, Unit.TIMESPEC))
    number = registers.orig_rax
    result = held.interrupted_call(number, *_ARGUMENTS[number](registers, place, left))
    changed = registers.copy()
    changed.rax = result & _WORD
    return changed


def _made_elsewhere(held: Held, thread: Thread, timed: Timed, left: int) -> Registers:
    """Send the thread on a way round its call, which would wait for its whole time again."""
    registers = Registers.from_buffer_copy(thread.registers)
    state = xstate.on_this_cpu(held.pid, thread.xstate)
    place = detour.room(registers, state, held.memory)
    if place is None:
        return registers
    table = held.stub.table()
    table.call("mmap", NR_MMAP, 0, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE_ANONYMOUS, -1, 0)
    (page,) = held.stub.run(table)
    gadgets = find_gadgets(held.pid, held.memory)
    way = detour.Way(page, gadgets, place, state, thread.blocked)
    return detour.enter(registers, timed, left, way, held.memory.write)
