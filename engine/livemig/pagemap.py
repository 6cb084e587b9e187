"""Which pages of a mapping belong to the process alone: what must be carried.

A page that shows a file unchanged, and the shared zero page, come back by themselves on the target.
PAGEMAP_SCAN tells them apart (Linux 6.7 on); before it, /proc/PID/pagemap does, where the zero page
counts as a page like any other (Documentation/admin-guide/mm/pagemap.rst).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

import numpy as np

from livemig.extract.guards import guards
from livemig.intervals import Span, merged
from livemig.model import Kind, Mapping
from livemig.system.memory import PAGE_SIZE
from livemig.system.uffd import (
    PAGE_IS_FILE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PAGE_IS_WRITTEN,
    Scanner,
)

_ENTRIES = 65536
_PRESENT_OR_SWAPPED = np.uint64(3 << 62)
_FILE = np.uint64(1 << 61)
# What write-protection leaves where a page of a file was given up looks as if it were swapped, to
# PAGEMAP_SCAN too. It is told by the type of its swap area, the last one (SWP_PTE_MARKER in
# include/linux/swap.h), and bit 57, written by userfaultfd.
_MARKER = np.uint64(1 << 62 | 1 << 57 | 0x1F)


def carried(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Return the mappings whose pages the process can change, and rely on.

    Those of MAP_DROPPABLE may read as zeros at any time, and cannot be tracked: they arrive so.
    """
    return [
        mapping
        for mapping in mappings
        if mapping.kind not in (Kind.VVAR, Kind.VDSO) and "dp" not in mapping.flags
    ]


class Pagemap:
    """The page tables of a process, as /proc/PID/pagemap shows them."""

    def __init__(self, pid: int) -> None:
        self.descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self.scanner = Scanner(self.descriptor)
        self.can_scan = self._try_scan()

    def _try_scan(self) -> bool:
        try:
            list(self.scanner.scan(0, PAGE_SIZE, any_of=PAGE_IS_PRESENT, returned=PAGE_IS_PRESENT))
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return False
            raise
        return True

    def private_pages(self, mappings: Iterable[Mapping]) -> list[Span]:
        """Return the address ranges whose pages belong to the process alone."""
        look = self.private if self.can_scan else self._read
        return merged(
            span for mapping in carried(mappings) for span in look((mapping.start, mapping.end))
        )

    def private(self, span: Span, *, written: bool = False, protect: bool = False) -> list[Span]:
        """Return the pages of ``span`` that belong to the process alone, by PAGEMAP_SCAN.

        With ``written`` only those that were written since they were protected; ``protect``
        protects what is returned.
        """
        regions = self.scanner.scan(
            *span,
            required=PAGE_IS_WRITTEN if written else 0,
            inverted=PAGE_IS_FILE | PAGE_IS_PFNZERO,
            any_of=PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            returned=PAGE_IS_PRESENT,
            protect=protect,
        )
        spans: list[Span] = []
        for region in regions:
            here = (region.start, region.end)
            spans += [here] if region.categories & PAGE_IS_PRESENT else self._read(here)
        return merged(spans)

    def absent(self, span: Span) -> list[Span]:
        """Return the pages of ``span`` that are not there, by PAGEMAP_SCAN: a millisecond a GiB."""
        regions = self.scanner.scan(*span, inverted=PAGE_IS_PRESENT | PAGE_IS_SWAPPED)
        return [(region.start, region.end) for region in regions]

    def owns(self, address: int) -> bool:
        """Tell whether the page at ``address`` belongs to the process alone."""
        span = (address, address + PAGE_SIZE)
        return bool(self.private(span) if self.can_scan else self._read(span))

    def _read(self, span: Span) -> list[Span]:
        spans: list[Span] = []
        first, last = span[0] // PAGE_SIZE, span[1] // PAGE_SIZE
        for start in range(first, last, _ENTRIES):
            count = min(_ENTRIES, last - start)
            entries = np.frombuffer(os.pread(self.descriptor, count * 8, start * 8), np.uint64)
            own = (entries & _PRESENT_OR_SWAPPED != 0) & (entries & _FILE == 0)
            own &= (entries & _MARKER != _MARKER) & ~guards(entries)
            edges = np.flatnonzero(np.diff(np.concatenate(([False], own, [False]))))
            spans += [
                ((start + int(a)) * PAGE_SIZE, (start + int(b)) * PAGE_SIZE)
                for a, b in zip(edges[::2], edges[1::2], strict=True)
            ]
        return spans

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
