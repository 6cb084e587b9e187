"""The tracker that a kernel has: found by trying, the best first."""

from __future__ import annotations

from typing import Protocol

from livemig.errors import KernelLacks
from livemig.infect import Loan
from livemig.model import COMPARISON, SOFT_DIRTY, WRITE_PROTECT, TrackerChoice
from livemig.tracker.base import Tracker, Watched
from livemig.tracker.comparison import Comparison
from livemig.tracker.softdirty import SoftDirty
from livemig.tracker.writeprotect import WriteProtectScan


class _Kind(Protocol):
    """What a class of trackers offers."""

    def plant(self, loan: Loan, watched: Watched, /) -> Tracker:
        """Begin to watch the process of a borrowed thread; KernelLacks where the kernel cannot."""

    def probe(self) -> None:
        """Try on this very process what it takes; KernelLacks where the kernel lacks it."""


_BEST_FIRST: dict[str, _Kind] = {
    WRITE_PROTECT: WriteProtectScan,
    SOFT_DIRTY: SoftDirty,
    COMPARISON: Comparison,
}


def check_tracker(choice: TrackerChoice) -> None:
    """Refuse a choice that this kernel does not allow, before anything else is done: KernelLacks.

    It is tried on this very process; "auto" always finds one.
    """
    if choice != "auto":
        _BEST_FIRST[choice].probe()


def plant_tracker(choice: TrackerChoice, loan: Loan, watched: Watched) -> Tracker:
    """Begin to watch the process of a borrowed thread.

    With "auto" by the best that the kernel has, otherwise as chosen: KernelLacks where it cannot.
    """
    if choice != "auto":
        return _BEST_FIRST[choice].plant(loan, watched)
    for tracker in _BEST_FIRST.values():
        try:
            return tracker.plant(loan, watched)
        except KernelLacks as error:
            lacking = error
    raise lacking
