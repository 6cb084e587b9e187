"""How much of the CPU this program takes from others (setpriority(2), which goes by thread)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress

_BACKGROUND, _FOREGROUND, _URGENT = 10, 0, -10


def background(others: Iterable[int] = ()) -> None:
    """Let everybody else go first, the application that is being read above all.

    Holds for all threads of this process but urgent ones, and for the processes ``others``.
    """
    _set(_BACKGROUND, others)


def foreground(others: Iterable[int] = ()) -> None:
    """Undo ``background``: from now on an application stands still and waits for us."""
    _set(_FOREGROUND, others)


def urgent() -> None:
    """Let this thread go first: an application waits for it, whenever it has something to do."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _URGENT)


def _set(nice: int, others: Iterable[int]) -> None:
    for thread in [*map(int, os.listdir("/proc/self/task")), *others]:
        with suppress(ProcessLookupError, PermissionError):
            if os.getpriority(os.PRIO_PROCESS, thread) != _URGENT:
                os.setpriority(os.PRIO_PROCESS, thread, nice)
