"""Written pages by userfaultfd's asynchronous write-protection and PAGEMAP_SCAN: Linux 6.7 on."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import closing

from livemig.infect import Loan
from livemig.intervals import Span, clipped, intersect, merged, subtract, total
from livemig.model import WRITE_PROTECT, Kind, Mapping
from livemig.pagemap import Pagemap, carried, not_carried
from livemig.relocation import Relocation
from livemig.system import procfs, uffd
from livemig.system.memory import USER_END
from livemig.tracker.base import Forgetful, Watched, Written, lacking
from livemig.tracker.direct import await_direct_reads
from livemig.tracker.moves import Moves
from livemig.tracker.planted import planted

_FEATURES = uffd.FEATURE_WP_ASYNC | uffd.FEATURE_EVENT_REMAP
_TRIES = 20
_LOWEST = 1 << 16  # nothing is mapped below it, nor may be registered (vm.mmap_min_addr)
_VANISHED = (errno.EINVAL, errno.ENOMEM, errno.ENOENT)
_UNWATCHABLE = (*_VANISHED, errno.EPERM)  # what came since is a file that cannot be written to


class WriteProtectScan(Forgetful):
    """userfaultfd in asynchronous mode, and PAGEMAP_SCAN.

    The process pays for the first write to each page in each round (about a microsecond). Closing
    the descriptor, or our death, ends it.

    What the process moves (mremap) stays watched, with its marks, and the kernel tells of it; the
    process goes on when that has been read. So a page without a mark may be another than was sent
    from that address: it must be known of every move. The process is stopped for a moment only
    where it moves memory again and again, just when that is to be made sure of.

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
        self._other: list[Span] = []  # where memory came that the target does not have there
        self._moves = Moves(descriptor)

    @classmethod
    def plant(cls, loan: Loan, watched: Watched) -> WriteProtectScan:
        """Begin to watch the process of a borrowed thread.

        Raises KernelLacks where the kernel has no asynchronous write-protection.
        """
        if not watched.pagemap.can_scan:
            raise lacking("PAGEMAP_SCAN", cls.name)
        descriptor = planted(loan, cls.name, _FEATURES)
        try:
            return cls(descriptor, watched)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def probe(cls) -> None:
        """Try on this very process what it takes. Raises KernelLacks."""
        with closing(Pagemap(os.getpid())) as pagemap:
            if not pagemap.can_scan:
                raise lacking("PAGEMAP_SCAN", cls.name)
        os.close(planted(None, cls.name, _FEATURES))

    def written(self, mappings: Sequence[Mapping], held: list[Span], *, frozen: bool) -> Written:
        """Return what changed since the last call; see Tracker."""
        other, self._other = intersect(held, self._other), []
        held = subtract(held, other)
        self._register(mappings, frozen=frozen)
        pages: list[Span] = []
        gone = self._given_up_files(mappings, held) if frozen else []
        for mapping in carried(mappings):
            try:
                found = self._look(mapping, mappings, held, frozen=frozen)
            except OSError as error:
                if frozen or error.errno not in _VANISHED:
                    raise
                # Some may be protected whose writes nobody was told, wherever it is by now.
                gone += clipped(held, mapping.start, mapping.end)
                continue
            pages += found.pages
            gone += found.gone
        gone = merged([*gone, *subtract(other, merged(pages))])
        if not frozen:
            await_direct_reads(self._process)
        return Written(subtract(merged(pages), gone), gone)

    def _register(self, mappings: Sequence[Mapping], *, frozen: bool) -> None:
        """Watch all memory that there is, also what came since the mappings were read.

        The kernel splits a mapping where what is registered begins or ends, and mremap(2) fails on
        both parts together: so that is never within memory that the application may write to.
        """
        apart = [each for each in not_carried(mappings) if not each.kind.is_kernels]
        if (frozen or not apart) and self._register_all(mappings, frozen=frozen):
            return
        with self._process.pause():
            spans = [(each.start, each.end) for each in apart]
            are_there = procfs.has_areas(self._process.pid, spans)
            if not (are_there and self._register_all(mappings)):
                self._register_each()

    def _register_all(self, mappings: Sequence[Mapping], *, frozen: bool = False) -> bool:
        """Watch all that is between what cannot be; False where more is there that cannot."""
        try:
            for span in _watchable(mappings):
                uffd.register(self._descriptor, *span)
        except OSError as error:
            if frozen or error.errno not in _UNWATCHABLE:
                raise
            return False
        return True

    def _register_each(self) -> None:
        """Watch what can be watched of a process that stands still, mapping by mapping."""
        for area in procfs.read_areas(self._process.pid):
            try:
                uffd.register(self._descriptor, area.start, area.end)
            except OSError as error:
                if error.errno not in _UNWATCHABLE:
                    raise

    def _look(
        self, mapping: Mapping, mappings: Sequence[Mapping], held: list[Span], *, frozen: bool
    ) -> Written:
        """Return what was written to one of the mappings."""
        known, unknown = _split(mapping, held)
        pages: list[Span] = []
        gone: list[Span] = []
        doubtful: list[Span] = []
        try:
            for span in known:
                pages += self._find(mapping, span, protect=True)
        except PermissionError:  # some was mapped just now
            if frozen:
                raise
            self._register(mappings, frozen=frozen)
            unknown, doubtful = [(mapping.start, mapping.end)], known
        pages += self._anew(unknown, frozen=frozen)
        gone += subtract(doubtful, merged(pages))
        if frozen and mapping.kind is not Kind.FILE:
            for span in known:
                gone += self._pagemap.absent(span)
        return Written(pages, gone)

    def _anew(self, spans: list[Span], *, frozen: bool) -> list[Span]:
        """Return all pages that the process owns there, protected from now on.

        Their marks say nothing: where a tracker before this one was closed, kernels up to 6.8 leave
        marks (fs/userfaultfd.c, userfaultfd_release) that no write clears.
        """
        own = [part for span in spans for part in self._pagemap.private(span)]
        try:
            self._protect(own)
        except BlockingIOError:
            if frozen:
                raise
            with self._process.pause():
                self._protect(own)
        return own

    def _protect(self, spans: list[Span]) -> None:
        """Protect pages; BlockingIOError where memory is being moved whenever that is tried."""
        for span in spans:
            for left in reversed(range(_TRIES)):
                try:
                    uffd.protect(self._descriptor, *span)
                    break
                except BlockingIOError:
                    if not left or not self._moves.await_rest():
                        raise

    def _given_up_files(self, mappings: Sequence[Mapping], held: list[Span]) -> list[Span]:
        """Pages of files are marked as protected still when the process has given them up."""
        own = merged(
            span
            for mapping in mappings
            if mapping.kind is Kind.FILE
            for span in clipped(held, mapping.start, mapping.end)
        )
        return subtract(own, merged(part for span in own for part in self._pagemap.private(span)))

    def peek(self, mappings: Sequence[Mapping], held: list[Span]) -> int:
        """Return about how many bytes of pages were written since the last call of ``written``."""
        size = 0
        for mapping in carried(mappings):
            known, other = _split(mapping, held)
            size += sum(total(self._find(mapping, span, protect=False)) for span in known)
            size += sum(total(self._pagemap.private(span)) for span in other)
        return size

    def _find(self, mapping: Mapping, span: Span, *, protect: bool) -> list[Span]:
        """Return the written pages of what the target holds of a mapping."""
        if mapping.kind is Kind.FILE:
            return self._pagemap.private(span, written=True, protect=protect)
        regions = self._pagemap.scanner.scan(
            *span,
            required=uffd.PAGE_IS_WRITTEN,
            returned=uffd.PAGE_IS_WRITTEN,
            protect=protect,
        )
        return [(region.start, region.end) for region in regions]

    def heard(self) -> int:
        """Return a number that changes when memory is moved."""
        return self._moves.heard()

    def relocations(
        self,
        old: Sequence[Mapping],
        new: Sequence[Mapping],
        held: list[Span],
        *,
        frozen: bool,  # noqa: ARG002
    ) -> list[Relocation]:
        """Return what was moved, as it was told; all else that was moved is sent. See Tracker."""
        moves, self._other = self._moves.relocations(old, new, held)
        return moves

    def misread(self, spans: list[Span], *, last: bool = False) -> list[Span]:
        """Return which pages may have been moved before they were read; see Tracker."""
        found = self._moves.misread(spans, last=last)
        if found is None and last:
            with self._process.pause():
                found = self._moves.misread([], at_rest=True)
        return found or []

    def close(self) -> None:
        """Close the descriptor: the kernel then lifts every write-protection."""
        if self._descriptor >= 0:
            self._moves.close()
            os.close(self._descriptor)
            self._descriptor = -1


def _watchable(mappings: Sequence[Mapping]) -> list[Span]:
    """Return ranges that hold what can be registered.

    They end where only the kernel maps, or at what nobody can write to.
    """
    own = carried(mappings)
    lowest = min((_LOWEST, *(each.start for each in own)))
    others = merged((each.start, each.end) for each in not_carried(mappings))
    spans = subtract([(lowest, USER_END)], others)
    return [span for span in spans if any(span[0] <= each.start < span[1] for each in own)]


def _split(mapping: Mapping, held: list[Span]) -> tuple[list[Span], list[Span]]:
    """Return what of a mapping the target holds, and the rest."""
    known = clipped(held, mapping.start, mapping.end)
    return known, subtract([(mapping.start, mapping.end)], known)
