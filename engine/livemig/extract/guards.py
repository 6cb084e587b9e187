"""Guard pages: pages that fault though they are mapped (MADV_GUARD_INSTALL, Linux 6.13 on).

Where one is, /proc/PID/pagemap shows an entry of the last swap area, which holds markers, with the
bit of guards (SWP_PTE_MARKER and PTE_MARKER_GUARD in the kernel's include/linux/swapops.h).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from livemig.intervals import Span, merged
from livemig.system.memory import PAGE_SIZE
from livemig.system.uffd import PAGE_IS_SWAPPED, Scanner

_ENTRIES = 65536
_IS_MARKER = np.uint64(1 << 63 | 1 << 62 | 0x1F)  # present, swapped, the swap area's number
_MARKER = np.uint64(1 << 62 | 0x1F)
_GUARD = np.uint64(4 << 5)


def find_guards(pagemap: int, spans: Iterable[Span]) -> list[Span]:
    """Return the guard pages of ``spans``; none on a kernel without PAGEMAP_SCAN, nor guards."""
    scanner = Scanner(pagemap)
    found: list[Span] = []
    for span in spans:
        try:
            for region in scanner.scan(*span, any_of=PAGE_IS_SWAPPED, returned=PAGE_IS_SWAPPED):
                found += _read(pagemap, (region.start, region.end))
        except OSError:
            return []
    return merged(found)


def is_guarded(pagemap: int, address: int) -> bool:
    """Tell whether the page at ``address`` is a guard page."""
    return bool(_read(pagemap, (address, address + PAGE_SIZE)))


def guards(entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which entries of /proc/PID/pagemap are those of guard pages."""
    found: NDArray[np.bool_] = (entries & _IS_MARKER == _MARKER) & (entries & _GUARD != 0)
    return found


def _read(pagemap: int, span: Span) -> list[Span]:
    found: list[Span] = []
    first, last = span[0] // PAGE_SIZE, span[1] // PAGE_SIZE
    for start in range(first, last, _ENTRIES):
        size = min(_ENTRIES, last - start) * 8
        entries = np.frombuffer(os.pread(pagemap, size, start * 8), np.uint64)
        found += [
            ((start + int(page)) * PAGE_SIZE, (start + int(page) + 1) * PAGE_SIZE)
            for page in np.flatnonzero(guards(entries))
        ]
    return found
