"""System calls that a stop has interrupted: how the kernel goes on with them, and when they end.

A stop makes a call that waits return early. What it returns says how it goes on once the thread
runs again without having caught a signal (signal(7), arch/x86/kernel/signal.c):

- ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND: the same call is entered again. Time-outs are
  absolute, or the kernel has written what is left of them into the program's memory.
- ERESTART_RESTARTBLOCK: restart_syscall is entered, which knows until when to wait. Another
  thread knows nothing of that: the call has to be made there, and interrupted.
- EINTR, for calls that are never entered again. A quiet machine has no stops, so these are turned
  into ERESTARTNOHAND: EINTR where a handler runs, else the same call.
"""

from __future__ import annotations

import ctypes
import errno
import struct
import time
from dataclasses import dataclass
from enum import Enum

from livemig.system import numbers as nr
from livemig.system.memory import Memory
from livemig.system.ptrace import Registers, signed

ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516
_RESTARTS = (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK)
NEVER = (1 << 63) - 1  # the kernel's KTIME_MAX

# They return EINTR only where they have done nothing (signal(7)), so they can be made again.
_CUT_SHORT = frozenset(
    (
        nr.NR_READ,
        nr.NR_WRITE,
        nr.NR_READV,
        nr.NR_WRITEV,
        nr.NR_SELECT,
        nr.NR_ACCEPT,
        nr.NR_ACCEPT4,
        nr.NR_CONNECT,
        nr.NR_SENDTO,
        nr.NR_SENDMSG,
        nr.NR_SENDMMSG,
        nr.NR_RECVFROM,
        nr.NR_RECVMSG,
        nr.NR_RECVMMSG,
        nr.NR_SEMOP,
        nr.NR_SEMTIMEDOP,
        nr.NR_RT_SIGTIMEDWAIT,
        nr.NR_IO_GETEVENTS,
        nr.NR_IO_PGETEVENTS,
        nr.NR_EPOLL_WAIT,
        nr.NR_EPOLL_PWAIT,
        nr.NR_EPOLL_PWAIT2,
        nr.NR_PSELECT6,
        nr.NR_PPOLL,
    )
)
_FUTEX_WAIT, _FUTEX_COMMAND = 0, 0x7F
_TIMER_ABSTIME = 1
# Relative sleeps on CLOCK_REALTIME are measured by CLOCK_MONOTONIC (POSIX, kernel/time/hrtimer.c).
_SLEEP_CLOCKS: dict[int, int] = {
    time.CLOCK_REALTIME: time.CLOCK_MONOTONIC,
    time.CLOCK_MONOTONIC: time.CLOCK_MONOTONIC,
    time.CLOCK_BOOTTIME: time.CLOCK_BOOTTIME,
    time.CLOCK_TAI: time.CLOCK_TAI,
}


class Left(Enum):
    """Who knows how much of a relative time-out is left when a call was interrupted."""

    KERNEL = "kernel"  # its restart block alone
    MEMORY = "memory"  # it has been written into the program's memory
    NOBODY = "nobody"  # the call starts over
    DETOUR = "detour"  # we: it is made by a way round (livemig.detour)


class Unit(Enum):
    """How a time-out is given: a pointer to a structure, or a number; with its nanoseconds."""

    TIMESPEC = 1
    TIMEVAL = 1_000
    MILLIS = 1_000_000


@dataclass(frozen=True)
class Timed:
    """The relative time-out of an interrupted call.

    ``length`` is as it was given, in nanoseconds, or where ``left`` is MEMORY what was left at the
    stop, which is found at ``address``. ``clock`` measures it.
    """

    left: Left
    length: int
    address: int
    unit: Unit = Unit.TIMESPEC
    clock: int = time.CLOCK_MONOTONIC


@dataclass(frozen=True)
class _Form:
    register: str
    left: Left
    unit: Unit = Unit.TIMESPEC


_FORMS = {
    nr.NR_NANOSLEEP: _Form("rdi", Left.KERNEL),
    nr.NR_CLOCK_NANOSLEEP: _Form("rdx", Left.KERNEL),
    nr.NR_POLL: _Form("rdx", Left.KERNEL, Unit.MILLIS),
    nr.NR_FUTEX: _Form("r10", Left.KERNEL),
    nr.NR_SELECT: _Form("r8", Left.MEMORY, Unit.TIMEVAL),
    nr.NR_PSELECT6: _Form("r8", Left.MEMORY),
    nr.NR_PPOLL: _Form("rdx", Left.MEMORY),
    nr.NR_RT_SIGTIMEDWAIT: _Form("rdx", Left.NOBODY),
    nr.NR_SEMTIMEDOP: _Form("r10", Left.NOBODY),
    nr.NR_IO_GETEVENTS: _Form("r8", Left.NOBODY),
    nr.NR_IO_PGETEVENTS: _Form("r8", Left.NOBODY),
    nr.NR_EPOLL_WAIT: _Form("r10", Left.NOBODY, Unit.MILLIS),
    nr.NR_EPOLL_PWAIT: _Form("r10", Left.NOBODY, Unit.MILLIS),
    nr.NR_EPOLL_PWAIT2: _Form("r10", Left.NOBODY),
}
# Where a sleep that is interrupted writes what is left, if anywhere.
_REST = {nr.NR_NANOSLEEP: "rsi", nr.NR_CLOCK_NANOSLEEP: "r10"}


def interruption(registers: Registers) -> int:
    """Return the kernel's restart code of an interrupted call, 0 where none was interrupted."""
    code = -signed(registers.rax)
    return code if signed(registers.orig_rax) >= 0 and code in _RESTARTS else 0


def as_interrupted(registers: Registers) -> Registers:
    """Return the registers with which a call that a stop cut short is made again.

    A thread that shows EINTR when it stops has not come back from its call yet: where a handler
    ran because of it, it shows that handler.
    """
    if signed(registers.rax) != -errno.EINTR or registers.orig_rax not in _CUT_SHORT:
        return registers
    return with_code(registers, ERESTARTNOHAND)


def with_code(registers: Registers, code: int) -> Registers:
    """Return the registers of a call that was interrupted with another restart code."""
    changed = registers.copy()
    changed.rax = (1 << 64) - code
    return changed


def restarted(registers: Registers) -> Registers:
    """Return the registers with which an interrupted system call is entered again.

    That is what the kernel does itself when a stopped thread goes on without a signal, but for
    calls that it continues by restart_syscall: those start over with their own arguments.
    """
    again = registers.copy()
    if interruption(registers):
        again.rax = registers.orig_rax
        again.rip = registers.rip - 2
    again.orig_rax = (1 << 64) - 1
    return again


def restart_number(number: int, code: int) -> int:
    """Return the call by which the kernel goes on with an interrupted call ``number``."""
    return nr.NR_RESTART_SYSCALL if code == ERESTART_RESTARTBLOCK else number


def not_restarted(registers: Registers, number: int, code: int) -> Registers:
    """Return the registers from before an interrupted call was to be entered again."""
    before = with_code(registers, code)
    before.rip, before.orig_rax = registers.rip + 2, number
    return before


def has_time_out(number: int) -> bool:
    """Tell whether a call may have a relative time-out, which is lost where nobody looks."""
    return number in _FORMS or number == nr.NR_RESTART_SYSCALL


def timed(registers: Registers, memory: Memory, *, sticky: bool = False) -> Timed | None:
    """Return the relative time-out of the interrupted call, None where it has none.

    ``sticky``: the kernel could not write what is left into the program's memory.
    """
    form = _FORMS.get(registers.orig_rax)
    clock = _clock(registers)
    if form is None or clock is None:
        return None
    if (rest := _REST.get(registers.orig_rax)) and (address := getattr(registers, rest)):
        form = _Form(rest, Left.MEMORY)
    value = int(getattr(registers, form.register))
    if form.unit is Unit.MILLIS:
        length: int | None = ctypes.c_int32(value & 0xFFFFFFFF).value * form.unit.value
        address = 0
    else:
        length, address = _read(memory, value, form.unit), value
    if length is None or length < 0:
        return None
    left = Left.NOBODY if sticky and form.left is Left.MEMORY else form.left
    return Timed(left, length, address, form.unit, clock)


def time_register(registers: Registers) -> str:
    """Return the register that holds a call's time-out, or points to it."""
    return _FORMS[registers.orig_rax].register


def _clock(registers: Registers) -> int | None:
    """Return the clock that measures a relative time-out, None where the call has none."""
    number = int(registers.orig_rax)
    if number == nr.NR_CLOCK_NANOSLEEP:
        if registers.rsi & _TIMER_ABSTIME:
            return None
        return _SLEEP_CLOCKS.get(registers.rdi & 0xFFFFFFFF)
    if number == nr.NR_FUTEX and registers.rsi & _FUTEX_COMMAND != _FUTEX_WAIT:
        return None  # the others wait until a given time
    return time.CLOCK_MONOTONIC


def _read(memory: Memory, address: int, unit: Unit) -> int | None:
    if not address:
        return None
    try:
        words = memory.read(address, 16)
    except OSError:  # gone meanwhile: the call itself will say so
        return None
    seconds, rest = (int.from_bytes(words[at : at + 8], "little", signed=True) for at in (0, 8))
    return min(seconds * 1_000_000_000 + rest * unit.value, NEVER)


def packed(length: int, unit: Unit) -> bytes:
    """Return a length in nanoseconds, not below 0, as ``struct timespec`` or ``timeval``."""
    seconds, rest = divmod(-(-max(length, 0) // unit.value), 1_000_000_000 // unit.value)
    return struct.pack("=qq", seconds, rest)


def guess_number(registers: Registers, where: str, code: bytes) -> int | None:
    """Return which call restart_syscall goes on with, None where nothing tells.

    ``where`` are the functions of the kernel in which the thread sleeps, ``code`` the program's
    bytes before the call: mov $number, %eax is usually among them. The functions of a sleep count
    as the scheduler's, which the kernel does not tell (in_sched_functions): nothing is left then.
    """
    if "futex" in where:
        return nr.NR_FUTEX
    if "poll" in where:
        return nr.NR_POLL
    if "nsleep" in where or "do_cpu_nanosleep" in where:  # on clocks that no other call knows
        return nr.NR_CLOCK_NANOSLEEP
    if "syscall" in where or "nanosleep" in where:  # the first argument is a clock, or an address
        return nr.NR_CLOCK_NANOSLEEP if registers.rdi < 4096 else nr.NR_NANOSLEEP
    for number in (nr.NR_POLL, nr.NR_NANOSLEEP, nr.NR_FUTEX, nr.NR_CLOCK_NANOSLEEP):
        if struct.pack("=BI", 0xB8, number) in code:
            return number
    return None
