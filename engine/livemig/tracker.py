"""Which pages were written since the last look: one interface, and what each kernel offers."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

from livemig.errors import KernelLacks
from livemig.infect import Loan
from livemig.intervals import Span, merged, total
from livemig.model import Mapping
from livemig.pagemap import Pagemap, carried
from livemig.system import handles, uffd

NR_CLOSE = 3
_VANISHED = (errno.EINVAL, errno.ENOMEM, errno.ENOENT)


class Tracker(Protocol):
    """Reports written pages of one process, round by round."""

    name: str

    def written(self, mappings: Sequence[Mapping], *, frozen: bool) -> list[Span]:
        """Return the ranges written since the last call, and start to watch them anew.

        The first call returns every page that the process owns. With ``frozen`` nothing may have
        vanished meanwhile; without it what vanished is left for the next round.
        """

    def peek(self, mappings: Sequence[Mapping]) -> int:
        """Return how many bytes of pages ``written`` would return now."""

    def close(self) -> None:
        """Stop watching."""


class Everything:
    """No tracker: every page that the process owns counts as written, each time."""

    name = "none"

    def __init__(self, pagemap: Pagemap) -> None:
        self._pagemap = pagemap

    def written(self, mappings: Sequence[Mapping], *, frozen: bool) -> list[Span]:  # noqa: ARG002
        """Return every page that the process owns."""
        return self._pagemap.private_pages(mappings)

    def peek(self, mappings: Sequence[Mapping]) -> int:
        """Return the size of every page that the process owns."""
        return total(self._pagemap.private_pages(mappings))

    def close(self) -> None:
        """Nothing is watched."""


class WriteProtectScan:
    """userfaultfd in asynchronous mode, and PAGEMAP_SCAN: Linux 6.7 on.

    The process pays for the first write to each page in each round (about a microsecond); it is
    never stopped. Closing the descriptor, or our death, ends it.
    """

    name = "write-protect-scan"

    def __init__(self, descriptor: int, pagemap: Pagemap) -> None:
        self._descriptor = descriptor
        self._pagemap = pagemap

    @classmethod
    def plant(cls, loan: Loan, pagemap: Pagemap) -> WriteProtectScan:
        """Make the descriptor in the process of a borrowed thread, take it, and close it there.

        Raises KernelLacks where the kernel has no asynchronous write-protection.
        """
        if not pagemap.can_scan:
            raise _lacking("PAGEMAP_SCAN")
        try:
            number = loan.call("userfaultfd", uffd.NR_USERFAULTFD, uffd.CREATE_FLAGS)
        except OSError as error:
            raise _lacking(f"userfaultfd ({error})") from error
        pidfd = os.pidfd_open(loan.memory.pid)
        try:
            descriptor = handles.fetch_descriptor(pidfd, number)
        finally:
            os.close(pidfd)
            loan.call("close", NR_CLOSE, number)
        try:
            uffd.enable(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise _lacking("asynchronous write-protection by userfaultfd") from error
        return cls(descriptor, pagemap)

    def written(self, mappings: Sequence[Mapping], *, frozen: bool) -> list[Span]:
        """Return the ranges written since the last call; see Tracker."""
        spans: list[Span] = []
        for mapping in carried(mappings):
            try:
                uffd.register(self._descriptor, mapping.start, mapping.end)
                spans += self._scan(mapping, protect=True)
            except OSError as error:
                if frozen or error.errno not in _VANISHED:
                    raise
        return merged(spans)

    def peek(self, mappings: Sequence[Mapping]) -> int:
        """Return how many bytes of pages were written since the last call of ``written``."""
        return sum(total(self._scan(mapping, protect=False)) for mapping in carried(mappings))

    def _scan(self, mapping: Mapping, *, protect: bool) -> list[Span]:
        regions = self._pagemap.scanner.scan(
            mapping.start,
            mapping.end,
            required=uffd.PAGE_IS_WRITTEN,
            inverted=uffd.PAGE_IS_FILE | uffd.PAGE_IS_PFNZERO,
            any_of=uffd.PAGE_IS_PRESENT | uffd.PAGE_IS_SWAPPED,
            protect=protect,
        )
        return [(region.start, region.end) for region in regions]

    def close(self) -> None:
        """Close the descriptor: the kernel then lifts every write-protection."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _lacking(what: str) -> KernelLacks:
    return KernelLacks(
        f"this kernel ({os.uname().release}) lacks {what}, which live mode needs",
        hint="use --mode stop-and-copy",
    )
