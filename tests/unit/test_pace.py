"""When rounds end: what is left fits the downtime, or more of them would not make it less."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from docker_livemig.pace import Pace
from docker_livemig.requests import MoveRequest
from livemig.model import RoundStat
from livemig.system.memory import PAGE_SIZE

PAGES = 1 << 18  # a GiB, which is sent within a moment here


class Source:
    """Link, client and process of a move in which ``left`` tells what each round leaves."""

    def __init__(self, left: list[int]) -> None:
        self._left = iter(left)
        self.bytes_sent = 0
        self.link = SimpleNamespace(send=None)

    def round(self, _: object) -> RoundStat:
        return RoundStat(1, PAGES, 0, 0, PAGES, 0, 0.0)

    def waiting(self) -> int:
        return next(self._left)

    def confirm(self, _: object) -> None:
        pass

    def enter(self, _: object) -> None:
        pass

    def report(self, *_: object, **__: object) -> None:
        pass


@pytest.mark.parametrize(
    ("left", "rounds", "noted"),
    [
        ([PAGE_SIZE, PAGE_SIZE], 2, False),
        ([1 << 60, PAGE_SIZE], 2, False),
        ([1 << 60, 1 << 60], 2, True),
        ([1 << 60, 1 << 59, 1 << 58, 1 << 58], 4, True),
        ([1 << 60, 1 << 59, 1 << 58, 1 << 57, 1 << 56], 5, True),  # as many as may be
    ],
)
def test_rounds_end_when_more_would_not_help(left: list[int], rounds: int, noted: bool) -> None:
    source, notes = cast("Any", Source(left)), list[str]()
    pace = Pace(MoveRequest("web", "b", max_rounds=5), source, source, source, notes)
    pace.iterate()
    assert len(pace.done) == rounds
    assert [note for note in notes if "--downtime-limit 100" in note] == notes
    assert bool(notes) == noted
