"""What an interrupted call's registers say, and what is read out of the kernel's list of timers."""

from __future__ import annotations

import errno
import struct
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livemig import calls
from livemig.calls import Left, Unit
from livemig.system import numbers as nr
from livemig.system.memory import Memory
from livemig.system.ptrace import Registers
from livemig.system.timerlist import Timer, parse

PLACE = 0x1000
NEGATIVE = 1 << 64


class Words:
    """Memory that holds one time at PLACE."""

    def __init__(self, seconds: int, rest: int) -> None:
        self._data = struct.pack("=qq", seconds, rest)

    def read(self, address: int, length: int) -> bytes:
        if address != PLACE:
            raise OSError(errno.EIO, "not mapped")
        return self._data[:length]


def stopped(number: int, code: int = calls.ERESTARTNOHAND, **values: int) -> Registers:
    return Registers(rax=NEGATIVE - code, orig_rax=number, rip=0x402, rsp=0x7000, **values)


def timed(registers: Registers, seconds: int = 1, rest: int = 500) -> Any:
    return calls.timed(registers, cast(Memory, Words(seconds, rest)))


@pytest.mark.parametrize(
    ("registers", "left", "length", "clock"),
    [
        (stopped(nr.NR_NANOSLEEP, rdi=PLACE), Left.KERNEL, 1_000_000_500, time.CLOCK_MONOTONIC),
        (stopped(nr.NR_NANOSLEEP, rdi=8, rsi=PLACE), Left.MEMORY, 1_000_000_500, 1),
        (stopped(nr.NR_CLOCK_NANOSLEEP, rdi=0, rdx=PLACE), Left.KERNEL, 1_000_000_500, 1),
        (stopped(nr.NR_CLOCK_NANOSLEEP, rdi=7, rdx=PLACE), Left.KERNEL, 1_000_000_500, 7),
        (stopped(nr.NR_POLL, rdx=20), Left.KERNEL, 20_000_000, 1),
        (stopped(nr.NR_SELECT, r8=PLACE), Left.MEMORY, 1_000_500_000, 1),
        (stopped(nr.NR_FUTEX, rsi=128, r10=PLACE), Left.KERNEL, 1_000_000_500, 1),
        (stopped(nr.NR_EPOLL_WAIT, r10=20), Left.NOBODY, 20_000_000, 1),
    ],
)
def test_relative_time_outs_are_found(
    registers: Registers, left: Left, length: int, clock: int
) -> None:
    found = timed(registers)
    assert (found.left, found.length, found.clock) == (left, length, clock)


@pytest.mark.parametrize(
    "registers",
    [
        stopped(nr.NR_CLOCK_NANOSLEEP, rdi=1, rsi=1, rdx=PLACE),  # TIMER_ABSTIME
        stopped(nr.NR_CLOCK_NANOSLEEP, rdi=2, rdx=PLACE),  # CLOCK_PROCESS_CPUTIME_ID
        stopped(nr.NR_FUTEX, rsi=128 | 9, r10=PLACE),  # FUTEX_WAIT_BITSET
        stopped(nr.NR_FUTEX, rsi=128),
        stopped(nr.NR_POLL, rdx=0xFFFFFFFF),
        stopped(nr.NR_PPOLL),
        stopped(nr.NR_PPOLL, rdx=8),  # not mapped
        stopped(nr.NR_READ, rdi=0, rsi=PLACE, rdx=16),
    ],
)
def test_other_calls_have_none(registers: Registers) -> None:
    assert timed(registers) is None


@given(st.integers(-5, 1 << 62), st.sampled_from([Unit.TIMESPEC, Unit.TIMEVAL]))
def test_a_length_is_packed_and_never_shortened(length: int, unit: Unit) -> None:
    seconds, rest = struct.unpack("=qq", calls.packed(length, unit))
    assert 0 <= rest < 1_000_000_000 // unit.value
    assert 0 <= seconds * 1_000_000_000 + rest * unit.value - max(length, 0) < unit.value


def test_a_call_that_was_cut_short_is_entered_again() -> None:
    cut = stopped(nr.NR_EPOLL_WAIT, errno.EINTR)
    assert calls.interruption(cut) == 0
    assert calls.interruption(calls.as_interrupted(cut)) == calls.ERESTARTNOHAND
    again = calls.restarted(calls.as_interrupted(cut))
    assert (again.rax, again.rip) == (nr.NR_EPOLL_WAIT, cut.rip - 2)
    close = stopped(nr.NR_CLOSE, errno.EINTR)
    assert calls.interruption(calls.as_interrupted(close)) == 0, "it has closed already"


@pytest.mark.parametrize("code", [calls.ERESTARTSYS, calls.ERESTART_RESTARTBLOCK])
def test_a_restart_is_taken_back(code: int) -> None:
    before = stopped(nr.NR_POLL, code)
    again = before.copy()
    again.rax, again.rip = calls.restart_number(nr.NR_POLL, code), before.rip - 2
    assert bytes(calls.not_restarted(again, nr.NR_POLL, code)) == bytes(before)


@pytest.mark.parametrize(
    ("where", "code", "argument", "number"),
    [
        ("futex_wait_queue", b"", PLACE, nr.NR_FUTEX),
        ("[<0>] do_sys_poll+0x1/0x2\n[<0>] do_restart_poll", b"", PLACE, nr.NR_POLL),
        ("hrtimer_nanosleep", b"", PLACE, nr.NR_NANOSLEEP),
        ("hrtimer_nanosleep", b"", 1, nr.NR_CLOCK_NANOSLEEP),
        ("do_syscall_64", b"", PLACE, nr.NR_NANOSLEEP),
        ("do_syscall_64\nposix_cpu_nsleep_restart", b"", NEGATIVE - 2, nr.NR_CLOCK_NANOSLEEP),
        ("0", b"\x90\xb8\x07\0\0\0", PLACE, nr.NR_POLL),
        ("0", b"\xb8\xe6\0\0\0\x90", 1, nr.NR_CLOCK_NANOSLEEP),
        ("0", b"\x90" * 64, PLACE, None),
    ],
)
def test_what_restart_syscall_goes_on_with_is_told_by_its_place(
    where: str, code: bytes, argument: int, number: int | None
) -> None:
    registers = stopped(nr.NR_RESTART_SYSCALL, calls.ERESTART_RESTARTBLOCK, rdi=argument)
    assert calls.guess_number(registers, where, code) == number


LIST = """Timer List Version: v0.10
cpu: 0
 clock 0:
  .base:       00000000ef8e62e3
  .index:      0
  .resolution: 1 nsecs
active timers:
 #0: <0000000054dd3ae4>, tick_sched_timer, S:01
 # expires at 100-100 nsecs [in 1 to 1 nsecs]
 #1: <00000000a64b3a20>, hrtimer_wakeup, S:01
 # expires at 200-250 nsecs [in 101 to 151 nsecs]
 clock 2:
  .index:      2
active timers:
 #0: <00000000a64b3a21>, hrtimer_wakeup, S:01
 # expires at 9223372036854775807-9223372036854775807 nsecs [in 101 to 151 nsecs]
cpu: 1
 clock 4:
  .index:      4
active timers:
 #0: <00000000a64b3a22>, hrtimer_wakeup, S:01
 # expires at 300-300 nsecs [in 201 to 201 nsecs]
"""


def test_timers_of_threads_are_read_by_clock() -> None:
    assert parse(LIST) == {
        Timer(time.CLOCK_MONOTONIC, 200, 250),
        Timer(time.CLOCK_BOOTTIME, calls.NEVER, calls.NEVER),
        Timer(time.CLOCK_MONOTONIC, 300, 300),
    }
