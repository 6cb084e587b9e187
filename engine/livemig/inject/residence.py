"""Prepare memory of the held process for pages that are to lie in it as they did."""

from __future__ import annotations

from collections.abc import Sequence

from livemig.extract.residence import HUGE_SIZE
from livemig.inject.held import Held
from livemig.intervals import Span, merged, subtract
from livemig.model import Kind, Mapping, Residence
from livemig.system.memory import PAGE_SIZE
from livemig.system.numbers import NR_MADVISE, NR_PRCTL

_PR_SET_THP_DISABLE = 41
_MADV_DONTNEED = 4
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE, _MADV_COLLAPSE = 22, 23, 25
_BATCH = 400


def forbid_huge(held: Held) -> None:
    """Let pages that are written be small ones: else memory that nobody used would be used up."""
    table = held.stub.table()
    table.call("prctl PR_SET_THP_DISABLE", NR_PRCTL, _PR_SET_THP_DISABLE, 1, 0, 0, 0)
    held.stub.run(table)


def prepare(held: Held, residence: Residence, mappings: Sequence[Mapping]) -> None:
    """Make the huge pages that are to be filled, and map the pages of files in.

    ``mappings`` are those that the process has, in which no page has been written yet.

    Where this host has no huge page to give, small ones do; so do files' pages that come later.
    """
    pages = [page for span in residence.huge for page in range(*span, HUGE_SIZE)]
    for first in range(0, len(pages), _BATCH):
        table = held.stub.table()
        table.call("prctl PR_SET_THP_DISABLE", NR_PRCTL, _PR_SET_THP_DISABLE, 0, 0, 0, 0)
        for page in pages[first : first + _BATCH]:
            for name, size, advice in (
                ("populating", PAGE_SIZE, _MADV_POPULATE_WRITE),
                ("collapsing", HUGE_SIZE, _MADV_COLLAPSE),
            ):
                table.call(f"{name} {page:#x}", NR_MADVISE, page, size, advice, may_fail=True)
        table.call("prctl PR_SET_THP_DISABLE", NR_PRCTL, _PR_SET_THP_DISABLE, 1, 0, 0, 0)
        held.stub.run(table)
    files = merged((each.start, each.end) for each in mappings if each.kind is Kind.FILE)
    # The kernel maps in pages around those that were asked for, too.
    _advise(held, residence.files, _MADV_POPULATE_READ)
    if residence.files:
        _advise(held, subtract(files, merged(residence.files)), _MADV_DONTNEED)


def _advise(held: Held, spans: Sequence[Span], advice: int) -> None:
    for first in range(0, len(spans), _BATCH):
        table = held.stub.table()
        for start, end in spans[first : first + _BATCH]:
            arguments = (start, end - start, advice)
            table.call(f"madvise {advice} at {start:#x}", NR_MADVISE, *arguments, may_fail=True)
        held.stub.run(table)
