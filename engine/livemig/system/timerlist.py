"""The timers that threads sleep on, as /proc/timer_list shows them (kernel/time/timer_list.c)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from livemig.system.procfs import read_text

_CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_REALTIME, time.CLOCK_BOOTTIME, time.CLOCK_TAI)
_LINES = re.compile(
    r"^\s*\.index:\s+(\d+)$"
    r"|, hrtimer_wakeup, .*\n # expires at (\d+)-(\d+) nsecs",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Timer:
    """A timer that will wake a thread, not before ``soft`` and by ``hard`` (ns on ``clock``)."""

    clock: int
    soft: int
    hard: int


def read_timers() -> frozenset[Timer]:
    """Return the high-resolution timers of all sleeping threads; whose they are is not told.

    Nothing where the file is missing. Bases from 4 on are those of the same clocks for the kernel's
    soft interrupts (enum hrtimer_base_type).
    """
    try:
        text = read_text("/proc/timer_list")
    except FileNotFoundError:
        return frozenset()
    return parse(text)


def parse(text: str) -> frozenset[Timer]:
    """Return the timers of sleeping threads in the text of the file."""
    found = set()
    clock = time.CLOCK_MONOTONIC
    for index, soft, hard in _LINES.findall(text):
        if index:
            clock = _CLOCKS[int(index) % len(_CLOCKS)]
        else:
            found.add(Timer(clock, int(soft), int(hard)))
    return frozenset(found)
