"""Which pages of a mapping belong to the process alone: what must be carried.

A page that shows a file unchanged, and the shared zero page, come back by themselves on the target.
PAGEMAP_SCAN tells them apart (Linux 6.7 on); before it, /proc/PID/pagemap does, where the zero page
is told by its frame (Documentation/admin-guide/mm/pagemap.rst).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from livemig.extract.guards import guards
from livemig.intervals import Span, merged
from livemig.model import Mapping
from livemig.system.entries import (
    AT_ONCE,
    FILE,
    FRAME,
    PRESENT,
    SOFT_DIRTY,
    SWAPPED,
    Chunk,
    read_entries,
    read_entry,
)
from livemig.system.memory import PAGE_SIZE
from livemig.system.uffd import (
    PAGE_IS_FILE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PAGE_IS_WRITTEN,
    Scanner,
)

# What write-protection leaves where a page of a file was given up looks as if it were swapped, to
# PAGEMAP_SCAN too. It is told by the type of its swap area, the last one (SWP_PTE_MARKER in
# include/linux/swap.h), and bit 57, written by userfaultfd.
_MARKER = SWAPPED | np.uint64(1 << 57 | 0x1F)
_NOTHING = np.zeros(1, np.uint64)


def carried(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Return the mappings whose pages the process can change, and rely on.

    Those of MAP_DROPPABLE may read as zeros at any time, and cannot be tracked: they arrive so.
    Those that are shared show what their file holds.
    """
    return [mapping for mapping in mappings if _is_carried(mapping)]


def not_carried(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Return all others."""
    return [mapping for mapping in mappings if not _is_carried(mapping)]


def _is_carried(mapping: Mapping) -> bool:
    return not (mapping.kind.is_kernels or mapping.is_shared or "dp" in mapping.flags)


@functools.cache
def zero_frame() -> int:
    """Return the frame of the page of zeros that all share; 0 where frames are not shown."""
    with mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as data:
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        assert data[0] == 0  # by this it is there
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            return read_entry(pagemap.fileno(), address) & int(FRAME)


class _Table:
    """Some stretches of a page map that are looked through at once: most mappings are short."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        # What stands between two stretches is the entry of no page.
        parts = [part for _, entries in chunks for part in (_NOTHING, entries)]
        table = np.concatenate([*parts, _NOTHING])
        self._places = np.cumsum([1, *(len(entries) + 1 for _, entries in chunks[:-1])])
        self._shifts = np.array([first for first, _ in chunks], np.int64) - self._places
        self._own = _own(table)
        self._dirty = self._own & (table & SOFT_DIRTY != 0)

    def owned(self) -> list[Span]:
        return self._spans(self._own)

    def dirty(self) -> list[Span]:
        return self._spans(self._dirty)

    def _spans(self, chosen: Any) -> list[Span]:
        edges = np.flatnonzero(np.diff(chosen)) + 1
        first, end = edges[::2], edges[1::2]
        shift = self._shifts[np.searchsorted(self._places, first, "right") - 1]
        spans = ((each + shift) * PAGE_SIZE for each in (first, end))
        return list(zip(*(each.tolist() for each in spans), strict=True))


class Entries:
    """What a page map said at one instant, to be looked through later: that takes as long again."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = list(chunks)

    @functools.cached_property
    def _tables(self) -> list[_Table]:
        tables: list[_Table] = []
        chunks: list[Chunk] = []
        size = 0
        for chunk in self._chunks:
            if chunks and size + len(chunk[1]) > AT_ONCE:
                tables.append(_Table(chunks))
                chunks, size = [], 0
            chunks.append(chunk)
            size += len(chunk[1])
        self._chunks = []  # eight bytes a page, where two are left
        return [*tables, _Table(chunks)] if chunks else tables

    def owned(self) -> list[Span]:
        """Return the pages that belong to the process alone."""
        return merged(span for table in self._tables for span in table.owned())

    def dirty(self) -> list[Span]:
        """Return those of them that were written since the soft-dirty bits were cleared."""
        return merged(span for table in self._tables for span in table.dirty())


def _own(entries: Any) -> Any:
    own = (entries & (PRESENT | SWAPPED) != 0) & (entries & FILE == 0)
    own &= (entries & _MARKER != _MARKER) & ~guards(entries)
    if zeros := zero_frame():
        own &= entries & (PRESENT | FRAME) != PRESENT | np.uint64(zeros)
    return own


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
        if not self.can_scan:
            return self.entries(mappings).owned()
        return merged(
            span
            for mapping in carried(mappings)
            for span in self.private((mapping.start, mapping.end))
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

    def entries(self, mappings: Iterable[Mapping]) -> Entries:
        """Return what the page map says now; what holds no page is left out."""
        spans = ((mapping.start, mapping.end) for mapping in carried(mappings))
        chunks = (chunk for span in spans for chunk in read_entries(self.descriptor, span))
        return Entries(chunk for chunk in chunks if (chunk[1] & (PRESENT | SWAPPED)).any())

    def _read(self, span: Span) -> list[Span]:
        return Entries(read_entries(self.descriptor, span)).owned()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
