"""When a sleeping thread last ran, by the scheduler's own clock (/proc/TID/sched)."""

from __future__ import annotations

import os
import re
import time

from livemig.system.procfs import read_text

_EXEC_START = re.compile(r"^se\.exec_start\s*:\s*(\d+)\.(\d+)$", re.MULTILINE)
_PROCESSOR = 38  # of the words of /proc/TID/stat, the name being one


def last_ran(tid: int) -> int | None:
    """Return when a thread that sleeps last ran, in ns on CLOCK_MONOTONIC, about a ms too late.

    None where the kernel does not tell (CONFIG_SCHED_DEBUG). Each CPU has a clock of its own, which
    leaves out interrupts and what a hypervisor stole: so it is compared with ours by running on the
    CPU where the thread ran, and the answer is the later, the longer the thread has slept.
    """
    try:
        found = _exec_start(tid)
        processor = _processor(tid)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {processor})
    except OSError:  # no such file, or not our CPU
        return None
    try:
        os.sched_yield()
        own = _exec_start("thread-self")
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    except OSError:
        return None
    finally:
        os.sched_setaffinity(0, before)
    return None if found is None or own is None else now - (own - found)


def _exec_start(tid: int | str) -> int | None:
    match = _EXEC_START.search(read_text(f"/proc/{tid}/sched"))
    return None if match is None else int(match[1]) * 1_000_000 + int(match[2])


def _processor(tid: int) -> int:
    text = read_text(f"/proc/{tid}/stat")
    return int(text.rpartition(")")[2].split()[_PROCESSOR - 2])
