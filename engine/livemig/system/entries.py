"""The page tables of a process, as /proc/PID/pagemap shows them: 8 bytes a page.

Their bits: Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from livemig.system.memory import PAGE_SIZE

PRESENT, SWAPPED = np.uint64(1 << 63), np.uint64(1 << 62)
FILE = np.uint64(1 << 61)  # or shared memory
SOFT_DIRTY = np.uint64(1 << 55)
FRAME = np.uint64((1 << 55) - 1)  # of what is present; 0 where the reader may not know it
AT_ONCE = 65536

Chunk = tuple[int, Any]
"""The number of a page, and the entries from there on."""


def read_entry(pagemap: int, address: int) -> int:
    """Return what an open page map says of the page at ``address``."""
    return int.from_bytes(os.pread(pagemap, 8, address // PAGE_SIZE * 8), "little")


def read_entries(pagemap: int, span: tuple[int, int]) -> Iterator[Chunk]:
    """Yield what an open page map says of a span, at most AT_ONCE entries at a time.

    ProcessLookupError where the process has ended.
    """
    first, last = span[0] // PAGE_SIZE, span[1] // PAGE_SIZE
    for start in range(first, last, AT_ONCE):
        size = min(AT_ONCE, last - start) * 8
        data = os.pread(pagemap, size, start * 8)
        if len(data) < size:
            raise ProcessLookupError(errno.ESRCH, "the process has no memory any more")
        yield start, np.frombuffer(data, np.uint64)


def chosen_spans(first: int, chosen: Any) -> list[tuple[int, int]]:
    """Return the pages for which ``chosen`` is true, the first of them having that number."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False])))) + first
    starts, ends = (edges[side::2] * PAGE_SIZE for side in (0, 1))
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
