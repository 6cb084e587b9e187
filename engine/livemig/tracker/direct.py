"""Reads past the page cache (O_DIRECT): a device writes to memory that it was given before.

No tracker sees that. The page counts as written when the call begins, and the device writes later:
where the page is looked at, and watched anew, in between, the write is lost. A call that does this
is over before its thread can be stopped, so a stop that comes after all pages are watched, and
before they are read, has every such write in what is read. Asynchronous calls are not carried.
"""

from __future__ import annotations

import os
from contextlib import suppress

from livemig.system import procfs
from livemig.tracker.base import Watched


def await_direct_reads(watched: Watched) -> None:
    """Wait until every read past the page cache that is under way has ended.

    A process with no descriptor for that is left alone: a read that is under way keeps its own.
    """
    if any(_is_direct(watched.pid, number) for number in procfs.descriptors(watched.pid)):
        with watched.pause():
            pass


def _is_direct(pid: int, number: int) -> bool:
    with suppress(FileNotFoundError):  # closed since the list was read
        return bool(procfs.open_flags(pid, number) & os.O_DIRECT)
    return False
