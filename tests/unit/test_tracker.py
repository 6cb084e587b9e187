"""What a kernel lacks is said by name, and the way out with it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from livemig.errors import KernelLacks
from livemig.model import SOFT_DIRTY, TRACKERS, WRITE_PROTECT, TrackerChoice
from livemig.pagemap import Pagemap
from livemig.system.memory import Memory
from livemig.tracker import Watched, WriteProtectScan, plant_tracker
from livemig.tracker import choice as choosing
from livemig.tracker.base import lacking


class OldLoan:
    """A borrowed thread on a kernel that refuses userfaultfd, as some are configured."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def undone_by(self, *_: int) -> AbstractContextManager[None]:
        return nullcontext()

    def call(self, name: str, number: int, *arguments: int) -> int:
        raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)} {number} {arguments}")


@pytest.mark.parametrize(("can_scan", "named"), [(False, "PAGEMAP_SCAN"), (True, "userfaultfd")])
def test_a_kernel_that_cannot_is_told_and_offered_the_other_mode(
    can_scan: bool, named: str
) -> None:
    pagemap = Pagemap(os.getpid())
    pagemap.can_scan = can_scan
    memory = Memory(os.getpid())
    loan, nobody = cast("Any", OldLoan(memory)), cast("Any", None)
    with pytest.raises(KernelLacks, match=named) as caught:
        WriteProtectScan.plant(loan, Watched(memory, pagemap, nobody))
    pagemap.close()
    memory.close()
    assert os.uname().release in caught.value.message
    assert "--tracker auto" in caught.value.hint


@pytest.mark.parametrize("without", ["nothing", WRITE_PROTECT, SOFT_DIRTY, "both"])
@pytest.mark.parametrize("choice", ["auto", *TRACKERS])
def test_what_the_kernel_has_is_found_by_trying(
    monkeypatch: pytest.MonkeyPatch, without: str, choice: TrackerChoice
) -> None:
    lacks = {WRITE_PROTECT, SOFT_DIRTY} if without == "both" else {without}

    def planter(name: str) -> Callable[[Any, Any], Any]:
        def plant(*_: Any) -> Any:
            if name in lacks:
                raise lacking("something", name)
            return name

        return plant

    kinds = {name: SimpleNamespace(plant=planter(name)) for name in TRACKERS}
    monkeypatch.setattr(choosing, "_BEST_FIRST", kinds)
    nobody = cast("Any", None)
    if choice in lacks:
        with pytest.raises(KernelLacks, match=f"the tracker {choice} needs"):
            plant_tracker(choice, nobody, nobody)
    else:
        found = cast("Any", plant_tracker(choice, nobody, nobody))
        best = next(name for name in TRACKERS if name not in lacks)
        assert found == (best if choice == "auto" else choice)
