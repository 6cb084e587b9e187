"""Written pages by userfaultfd's asynchronous write-protection and PAGEMAP_SCAN: Linux 6.7 on."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import closing

from livemig.infect import Loan
from livemig.intervals import Span, intersect, merged, subtract, total
from livemig.model import WRITE_PROTECT, Kind, Mapping
from livemig.pagemap import Pagemap, carried
from livemig.system import uffd
from livemig.tracker.base import Forgetful, Watched, Written, lacking
from livemig.tracker.direct import await_direct_reads
from livemig.tracker.planted import planted

_VANISHED = (errno.EINVAL, errno.ENOMEM, errno.ENOENT)


class WriteProtectScan(Forgetful):
    """userfaultfd in asynchronous mode, and PAGEMAP_SCAN.

    The process pays for the first write to each page in each round (about a microsecond); it is
    never stopped. Closing the descriptor, or our death, ends it.

    Where the target holds anonymous pages, the kernel's fast path is taken, which looks at nothing
    but the write-protection (fs/proc/task_mmu.c, pagemap_scan_pmd_entry): 1.8 ms for a GiB, where
    categories cost 14 ms. A page that was given up shows there as written, and reads as zeros.
    Elsewhere the categories are needed: the fast path would protect, and so allocate page tables
    for, memory that is empty.
    """

    name = WRITE_PROTECT

    def __init__(self, descriptor: int, watched: Watched) -> None:
        self._descriptor = descriptor
        self._process = watched
        self._pagemap = watched.pagemap
        self._doubtful: list[Span] = []

    @classmethod
    def plant(cls, loan: Loan, watched: Watched) -> WriteProtectScan:
        """Begin to watch the process of a borrowed thread.

        Raises KernelLacks where the kernel has no asynchronous write-protection.
        """
        if not watched.pagemap.can_scan:
            raise lacking("PAGEMAP_SCAN", cls.name)
        return cls(planted(loan, cls.name, uffd.FEATURE_WP_ASYNC), watched)

    @classmethod
    def probe(cls) -> None:
        """Try on this very process what it takes. Raises KernelLacks."""
        with closing(Pagemap(os.getpid())) as pagemap:
            if not pagemap.can_scan:
                raise lacking("PAGEMAP_SCAN", cls.name)
        os.close(planted(None, cls.name, uffd.FEATURE_WP_ASYNC))

    def written(self, mappings: Sequence[Mapping], held: list[Span], *, frozen: bool) -> Written:
        """Return what changed since the last call; see Tracker."""
        pages: list[Span] = []
        gone = self._given_up_files(mappings, held) if frozen else []
        doubtful, self._doubtful = merged(self._doubtful), []
        for mapping in carried(mappings):
            span = (mapping.start, mapping.end)
            try:
                found = None
                if not intersect([span], doubtful):
                    found = self._watched(mapping, held, frozen=frozen)
                found = found or self._watch(span, held)
            except OSError as error:
                if frozen or error.errno not in _VANISHED:
                    raise
                self._doubtful.append(span)  # a part may be protected whose writes nobody was told
                continue
            pages += found.pages
            gone += found.gone
        gone = merged(gone)
        if not frozen:
            await_direct_reads(self._process)
        return Written(subtract(merged(pages), gone), gone)

    def _watched(self, mapping: Mapping, held: list[Span], *, frozen: bool) -> Written | None:
        """Return what was written to a mapping; None where not all of it is watched."""
        known, other = _split(mapping, held)
        pages: list[Span] = []
        gone: list[Span] = []
        try:
            for span in known:
                pages += self._fast(span, protect=True)
            for span in other:
                pages += self._pagemap.private(span, written=True, protect=True)
        except PermissionError:
            return None
        if frozen:
            for span in known:
                gone += self._pagemap.absent(span)
            for span in other:
                pages += subtract(self._pagemap.private(span), held)
        return Written(pages, gone)

    def _watch(self, span: Span, held: list[Span]) -> Written:
        """Watch memory from now on, all of which counts as written.

        Its marks say nothing: where mremap brings memory that the kernel joins with its neighbour,
        both lose their registration and the neighbour keeps its marks, which no write clears then
        (mm/mremap.c, mremap_userfaultfd_prep).
        """
        uffd.register(self._descriptor, *span)
        own = self._pagemap.private(span)
        for part in own:
            uffd.protect(self._descriptor, *part)
        return Written(own, subtract(intersect([span], held), own))

    def _given_up_files(self, mappings: Sequence[Mapping], held: list[Span]) -> list[Span]:
        """Pages of files are marked as protected still when the process has given them up."""
        files = [mapping for mapping in mappings if mapping.kind is Kind.FILE]
        own = intersect(held, merged((mapping.start, mapping.end) for mapping in files))
        return subtract(own, self._pagemap.private_pages(files))

    def peek(self, mappings: Sequence[Mapping], held: list[Span]) -> int:
        """Return about how many bytes of pages were written since the last call of ``written``."""
        size = 0
        for mapping in carried(mappings):
            known, other = _split(mapping, held)
            size += sum(total(self._fast(span, protect=False)) for span in known)
            size += sum(total(self._pagemap.private(span, written=True)) for span in other)
        return size

    def _fast(self, span: Span, *, protect: bool) -> list[Span]:
        """Scan pages by their write-protection alone."""
        regions = self._pagemap.scanner.scan(
            *span,
            required=uffd.PAGE_IS_WRITTEN,
            returned=uffd.PAGE_IS_WRITTEN,
            protect=protect,
        )
        return [(region.start, region.end) for region in regions]

    def close(self) -> None:
        """Close the descriptor: the kernel then lifts every write-protection."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _split(mapping: Mapping, held: list[Span]) -> tuple[list[Span], list[Span]]:
    """Return what of a mapping the fast scan may look at, and the rest."""
    whole = [(mapping.start, mapping.end)]
    if mapping.kind is Kind.FILE:
        return [], whole
    known = intersect(whole, held)
    return known, subtract(whole, known)
