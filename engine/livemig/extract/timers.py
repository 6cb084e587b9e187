"""Read the POSIX timers of a process (timer_create(2))."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

from livemig.errors import NotCarried
from livemig.model import Timer
from livemig.stub import Stub, Table
from livemig.system import procfs
from livemig.system.numbers import NR_CLOCK_GETTIME, NR_TIMER_GETOVERRUN, NR_TIMER_GETTIME

SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 0, 1, 2, 4
CONTAINER_CLOCKS = (1, 7)  # CLOCK_MONOTONIC and CLOCK_BOOTTIME go on there where they stood here
_BILLION = 1_000_000_000
_NOTIFY = {"signal": SIGEV_SIGNAL, "none": SIGEV_NONE, "thread": SIGEV_THREAD}
_ENTRY = re.compile(
    r"ID: (?P<number>\d+)\nsignal: (?P<signal>\d+)/(?P<value>[0-9a-f]+)\n"
    r"notify: (?P<notify>\w+)/(?P<to>tid|pid)\.(?P<thread>\d+)\nClockID: (?P<clock>-?\d+)\n"
)
_TIMER_SIZE, _CLOCK_SIZE = 32, 16
_BATCH = 400  # timers a table


def list_timers(pid: int) -> list[Timer]:
    """Return the timers that /proc/PID/timers names, without what is left on them.

    Raises NotCarried where the kernel has no such file and so does not tell.
    """
    try:
        text = procfs.read_text(f"/proc/{pid}/timers")
    except FileNotFoundError as error:
        if not Path(f"/proc/{pid}").exists():
            raise
        raise NotCarried(
            f"process {pid}: this kernel does not tell POSIX timers (/proc/PID/timers)",
            hint="the kernel must have been built with CONFIG_CHECKPOINT_RESTORE",
        ) from error
    timers = [_timer(pid, entry) for entry in _ENTRY.finditer(text)]
    return sorted(timers, key=lambda timer: timer.number)


def _timer(pid: int, entry: re.Match[str]) -> Timer:
    notify, thread = _NOTIFY[entry["notify"]], 0
    if entry["to"] == "tid":
        notify, thread = notify | SIGEV_THREAD_ID, procfs.namespaced_id(pid, int(entry["thread"]))
    return Timer(
        number=int(entry["number"]),
        clock=int(entry["clock"]),
        notify=notify,
        signal=int(entry["signal"]),
        value=int(entry["value"], 16),
        thread=thread,
        interval=0,
        left=0,
        expires=0,
        overruns=0,
    )


def read_timers(stub: Stub, timers: list[Timer]) -> tuple[Timer, ...]:
    """Return ``timers`` as they stand, told by the process itself."""
    found: list[Timer] = []
    for first in range(0, len(timers), _BATCH):
        table = stub.table()
        batch = timers[first : first + _BATCH]
        places = [_add_read(table, timer) for timer in batch]
        results = stub.run(table)
        read = stub.memory.read
        for timer, (overruns, left_at, now_at) in zip(batch, places, strict=True):
            interval, left = _times(read(left_at, _TIMER_SIZE))
            (now,) = _times(read(now_at, _CLOCK_SIZE))
            expires = now + left if now and left else 0
            told = results[overruns]
            found.append(
                replace(timer, interval=interval, left=left, expires=expires, overruns=told)
            )
    return tuple(found)


def _add_read(table: Table, timer: Timer) -> tuple[int, int, int]:
    what = f"timer {timer.number}"
    left, now = table.room(_TIMER_SIZE), table.room(_CLOCK_SIZE)
    overruns = table.call(f"overruns of {what}", NR_TIMER_GETOVERRUN, timer.number)
    table.call(f"reading {what}", NR_TIMER_GETTIME, timer.number, left)
    if timer.clock in CONTAINER_CLOCKS:
        table.call(f"reading the clock of {what}", NR_CLOCK_GETTIME, timer.clock, now)
    return overruns, left, now


def _times(data: bytes) -> list[int]:
    """Return the ``struct timespec`` of some memory in nanoseconds."""
    return [seconds * _BILLION + rest for seconds, rest in struct.iter_unpack("=qq", data)]
