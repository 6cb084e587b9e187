"""The tracker that a kernel has: found by trying, the best first."""

from __future__ import annotations

from collections.abc import Callable

from livemig.errors import KernelLacks
from livemig.infect import Loan
from livemig.model import COMPARISON, SOFT_DIRTY, WRITE_PROTECT, TrackerChoice
from livemig.tracker.base import Tracker, Watched
from livemig.tracker.comparison import Comparison
from livemig.tracker.softdirty import SoftDirty
from livemig.tracker.writeprotect import WriteProtectScan

_BEST_FIRST: dict[str, Callable[[Loan, Watched], Tracker]] = {
    WRITE_PROTECT: WriteProtectScan.plant,
    SOFT_DIRTY: SoftDirty.plant,
    COMPARISON: lambda _, watched: Comparison(watched),
}
_PROBES: dict[str, Callable[[], None]] = {
    WRITE_PROTECT: WriteProtectScan.probe,
    SOFT_DIRTY: SoftDirty.probe,
    COMPARISON: lambda: None,
}


def check_tracker(choice: TrackerChoice) -> None:
    """Refuse a choice that this kernel does not allow, before anything else is done: KernelLacks.

    It is tried on this very process; "auto" always finds one.
    """
    if choice != "auto":
        _PROBES[choice]()


def plant_tracker(choice: TrackerChoice, loan: Loan, watched: Watched) -> Tracker:
    """Begin to watch the process of a borrowed thread.

    With "auto" by the best that the kernel has, otherwise as chosen: KernelLacks where it cannot.
    """
    if choice != "auto":
        return _BEST_FIRST[choice](loan, watched)
    for plant in _BEST_FIRST.values():
        try:
            return plant(loan, watched)
        except KernelLacks as error:
            lacking = error
    raise lacking
