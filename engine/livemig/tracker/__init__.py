"""Trackers: which pages were written since the last look."""

from livemig.tracker.base import Tracker, Watched, Written
from livemig.tracker.choice import check_tracker, plant_tracker
from livemig.tracker.comparison import Comparison
from livemig.tracker.everything import Everything
from livemig.tracker.softdirty import SoftDirty
from livemig.tracker.writeprotect import WriteProtectScan

__all__ = [
    "Comparison",
    "Everything",
    "SoftDirty",
    "Tracker",
    "Watched",
    "WriteProtectScan",
    "Written",
    "check_tracker",
    "plant_tracker",
]
