"""Guard pages: pages that fault though they are mapped (MADV_GUARD_INSTALL, Linux 6.13 on).

Where one is, /proc/PID/pagemap shows an entry of the last swap area, which holds markers, with the
bit of guards (SWP_PTE_MARKER and PTE_MARKER_GUARD in the kernel's include/linux/swapops.h).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from livemig.intervals import Span, merged
from livemig.system.entries import PRESENT, SWAPPED, chosen_spans, read_entries, read_entry
from livemig.system.uffd import PAGE_IS_SWAPPED, Scanner

_AREA = np.uint64(0x1F)
_IS_MARKER, _MARKER = PRESENT | SWAPPED | _AREA, SWAPPED | _AREA
_GUARD = np.uint64(4 << 5)


def find_guards(pagemap: int, spans: Iterable[Span]) -> list[Span]:
    """Return the guard pages of ``spans``; none on a kernel without PAGEMAP_SCAN, nor guards."""
    scanner = Scanner(pagemap)
    found: list[Span] = []
    for span in spans:
        try:
            for region in scanner.scan(*span, any_of=PAGE_IS_SWAPPED, returned=PAGE_IS_SWAPPED):
                for first, entries in read_entries(pagemap, (region.start, region.end)):
                    found += chosen_spans(first, guards(entries))
        except OSError:
            return []
    return merged(found)


def is_guarded(pagemap: int, address: int) -> bool:
    """Tell whether the page at ``address`` is a guard page."""
    return bool(guards(np.uint64(read_entry(pagemap, address))))


def guards(entries: Any) -> Any:
    """Tell which entries of /proc/PID/pagemap are those of guard pages."""
    return (entries & _IS_MARKER == _MARKER) & (entries & _GUARD != 0)
