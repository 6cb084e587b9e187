"""Written pages by the kernel's soft-dirty bits (CONFIG_MEM_SOFT_DIRTY, on in Debian's kernels).

/proc/PID/clear_refs protects all pages and clears their bits; the first write to a page sets its
bit again (Documentation/admin-guide/mm/soft-dirty.rst). Four things the bits do not tell:

- What is written between reading a page's bit and clearing it. So the process is stopped for as
  long as both take; what was read is looked through when it runs again. The first round needs no
  bits: it clears them, and then sends everything.
- That memory was replaced. A whole page table that mremap moves keeps its bits clear
  (mm/mremap.c, move_normal_pmd). So every anonymous mapping is registered with a userfaultfd, which
  protects nothing and costs nothing: mremap drops the registration of what it moves, and what is
  new never had one. All of a mapping that is not registered counts as written. Mappings of files
  cannot be registered: in those a whole page table's worth always counts. What is registered in
  part is split by the kernel, and the application's mremap of both parts fails: so the process is
  stopped in the first round, too, while all that it has mapped then is registered.
- Which page of a huge page was written: that has one bit. So where all of a page table's worth is
  dirty, hashes of what was last sent tell what is another.
- That a page was given up. Every look finds which pages the process owns, so this is seen there.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from livemig.infect import Loan
from livemig.intervals import Span, intersect, merged, subtract, total
from livemig.model import SOFT_DIRTY, Kind, Mapping
from livemig.pagemap import Pagemap, zero_frame
from livemig.relocation import Relocation
from livemig.system import procfs, uffd
from livemig.system.memory import PAGE_SIZE
from livemig.tracker.base import Watched, Written, lacking
from livemig.tracker.direct import await_direct_reads
from livemig.tracker.planted import planted
from livemig.tracker.sent import Knowing, Sent

_VANISHED = (errno.EINVAL, errno.ENOMEM, errno.ENOENT)
_TABLE = 2 << 20  # what one page table is for


class SoftDirty(Knowing):
    """Soft-dirty bits, and a userfaultfd that tells which mappings are still the same."""

    name = SOFT_DIRTY

    def __init__(self, descriptor: int, watched: Watched) -> None:
        self._descriptor = descriptor
        self._process = watched
        self._sent = Sent(watched)
        self._first = True
        self._moved: list[Span] = []

    @classmethod
    def plant(cls, loan: Loan, watched: Watched) -> SoftDirty:
        """Begin to watch the process of a borrowed thread. Raises KernelLacks."""
        _check_bits(cls.name)
        return cls(planted(loan, cls.name), watched)

    @classmethod
    def probe(cls) -> None:
        """Try on this very process what it takes. Raises KernelLacks."""
        _check_bits(cls.name)
        os.close(planted(None, cls.name))

    def written(self, mappings: Sequence[Mapping], held: list[Span], *, frozen: bool) -> Written:
        """Return what changed since the last call; see Tracker."""
        if frozen:
            unwatched, tables = self._look()
            entries = self._process.pagemap.entries(mappings)
        elif self._first:
            self._first = False
            self._begin()
            unwatched, tables = [(mapping.start, mapping.end) for mapping in mappings], []
            entries = self._process.pagemap.entries(mappings)
        else:
            with self._process.pause():
                unwatched, tables = self._look()
                entries = self._process.pagemap.entries(mappings)
                self._watch(unwatched)
                procfs.clear_soft_dirty(self._process.pid)
        own = entries.owned()
        dirty = merged([*entries.dirty(), *intersect(own, merged([*unwatched, *tables]))])
        self._sent.keep(held)
        come, self._moved = intersect(intersect(own, held), self._moved), []
        single, whole = _split(subtract(intersect(dirty, held), come))
        changed = self._sent.changed(merged([*whole, *come]), frozen=frozen)
        pages = merged([*subtract(own, held), *single, *changed])
        return Written(pages, subtract(held, own))

    def moved(self, held: list[Span], moves: Sequence[Relocation]) -> None:
        """Compare at the next look what has come: its bits tell nothing."""
        super().moved(held, moves)
        self._moved = merged((to, to + end - start) for start, end, to in moves)

    def _begin(self) -> None:
        with self._process.pause():
            self._watch(self._look()[0])
        procfs.clear_soft_dirty(self._process.pid)
        await_direct_reads(self._process)

    def _look(self) -> tuple[list[Span], list[Span]]:
        """Return what may be other memory than before: mappings, and whole page tables of files.

        The mappings as they are now are looked at: those that were read before the process was
        stopped may be others.
        """
        unwatched: list[Span] = []
        tables: list[Span] = []
        for area in procfs.read_areas(self._process.pid):
            if area.name.startswith("/"):
                tables += _whole_tables((area.start, area.end))
            elif not uffd.is_registered(self._descriptor, area.start):
                unwatched.append((area.start, area.end))
        return unwatched, tables

    def _watch(self, spans: Iterable[Span]) -> None:
        """Register whole mappings; those that cannot be count as replaced each time."""
        for start, end in spans:
            try:
                uffd.register(self._descriptor, start, end)
            except OSError as error:
                if error.errno not in _VANISHED:
                    raise

    def peek(self, mappings: Sequence[Mapping], held: list[Span]) -> int:
        """Return about how many bytes of pages were written since the last call of ``written``."""
        entries = self._process.pagemap.entries(mappings)
        new = subtract(entries.owned(), held)
        single, whole = _split(intersect(entries.dirty(), held))
        return total(new) + total(single) + self._sent.estimate(whole)

    def close(self) -> None:
        """Close the descriptor: what was registered is so no more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _whole_tables(span: Span) -> list[Span]:
    """Return what of a span whole page tables are for."""
    start, end = -(-span[0] // _TABLE) * _TABLE, span[1] // _TABLE * _TABLE
    return [(start, end)] if start < end else []


def _split(dirty: list[Span]) -> tuple[list[Span], list[Span]]:
    """Return the dirty pages that say so by themselves, and those that may be in huge pages."""
    whole = [part for span in dirty for part in _whole_tables(span)]
    return subtract(dirty, whole), whole


def _check_bits(name: str) -> None:
    if not _bits_work():
        raise lacking("soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)", name)
    if not zero_frame():
        raise lacking("page frames in /proc/PID/pagemap", name)


def _bits_work() -> bool:
    """Try it: clear the bits of this program, write to one page of two, and look."""
    with mmap.mmap(-1, 2 * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as data:
        start = ctypes.addressof(ctypes.c_char.from_buffer(data))
        data[0] = data[PAGE_SIZE] = 1
        with suppress(OSError):  # EINVAL or EOPNOTSUPP are an answer too: then no bit is cleared
            procfs.clear_soft_dirty(os.getpid())
        data[PAGE_SIZE] = 2
        pagemap = Pagemap(os.getpid())
        try:
            own = pagemap.entries([Mapping(start, start + 2 * PAGE_SIZE, 3, Kind.ANONYMOUS)])
        finally:
            pagemap.close()
    return own.dirty() == [(start + PAGE_SIZE, start + 2 * PAGE_SIZE)]
