"""What a process moves between rounds is moved on the target, with its pages."""

from __future__ import annotations

import random
from typing import Any

import pytest

from livemig.frames import FrameType
from livemig.model import TrackerChoice
from tests.root.loopback import Mover
from tests.root.mapper import (
    ARENA,
    FILL,
    FIXED,
    HUGE,
    MAYMOVE,
    NR_GETPID,
    NR_MREMAP,
    NR_MUNMAP,
    PAGE,
    POKE,
    Mapper,
)
from tests.root.test_tracker import A_FEW, FIRST, differing, mapper

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

__all__ = ["mapper"]

KNOWING: tuple[TrackerChoice, ...] = (
    "comparison",
    "soft-dirty",
    "write-protect",
)  # the trackers that know a page again, and the one that is told
MANY = 96


@pytest.mark.parametrize("frozen", [False, True], ids=["between-rounds", "before-the-last"])
@pytest.mark.parametrize("what", ["whole", "grown", "parts", "joined"])
@pytest.mark.parametrize("known_by", KNOWING)
def test_what_was_moved_is_not_sent_again(
    mapper: Mapper, move: Mover, known_by: TrackerChoice, what: str, frozen: bool
) -> None:
    old, new, size = ARENA + HUGE, ARENA + 4 * HUGE, MANY * PAGE
    half = size // 2
    mapper.call(NR_MUNMAP, ARENA + HUGE - PAGE, HUGE)
    mapper.map(old, MANY)
    mapper.command(FILL, 5, old, size)
    mapper.answers()
    moving = move(mapper.app, tracker=known_by)
    moving.round()
    moving.round()
    parts = {
        "whole": [(old, size, size, new)],
        "grown": [(old, size, size + 4 * PAGE, new)],
        "parts": [(old, half, half, new + size), (old + half, half, half, new)],
        "joined": [(old + half, half, half, new), (old, half, half, new + half)],
    }
    for start, length, longer, place in parts[what]:
        flags = MAYMOVE | FIXED
        assert mapper.call(NR_MREMAP, start, length, longer, flags, place) == place
    mapper.command(POKE, 6, new + 8 * PAGE, 3 * PAGE)
    mapper.answers()
    mapper.app.settle()
    stat = moving.freeze() if frozen else moving.round()
    assert 3 <= stat.pages <= 3 + A_FEW
    if not frozen:
        moving.freeze()
    assert differing(mapper.app, moving.target) == []
    mapper.app = moving.switch()
    assert mapper.call(NR_GETPID) == 1
    if len(parts[what]) == 1:  # it is one mapping, and can be moved again as such
        _, _, size, old = parts[what][0]
        new = ARENA + 6 * HUGE
        assert mapper.call(NR_MREMAP, old, size, size + PAGE, MAYMOVE | FIXED, new) == new


def test_a_wrong_guess_costs_a_page_and_nothing_else(
    mapper: Mapper, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is gone is said to have gone to where other memory came."""
    old, new = ARENA + HUGE, ARENA + 4 * HUGE
    mapper.call(NR_MUNMAP, ARENA + HUGE - PAGE, HUGE)
    mapper.map(old, 8)
    mapper.command(FILL, 5, old, 8 * PAGE)
    mapper.answers()
    moving = move(mapper.app, tracker="comparison")
    moving.round()
    mapper.call(NR_MUNMAP, old, 8 * PAGE)
    mapper.map(new, 8)
    mapper.command(FILL, 7, new, 4 * PAGE)
    mapper.answers()
    moves: list[object] = []
    monkeypatch.setattr("livemig.tracker.sent.guess", lambda *_: [(old, old + 8 * PAGE, new)])
    send = moving.send

    def noting(kind: FrameType, body: dict[str, object], payload: bytes = b"") -> None:
        moves.extend([body["moves"]] if kind is FrameType.LAYOUT else [])
        send(kind, body, payload)

    monkeypatch.setattr(moving, "send", noting)
    moving.round()
    monkeypatch.undo()
    assert moves == [((old, old + 8 * PAGE, new),)]
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


def test_what_was_known_of_a_page_that_was_there_before_is_forgotten(
    mapper: Mapper, move: Mover
) -> None:
    """A delta against the copy of that page would make another page of the one that came."""
    old, new, size = ARENA + HUGE, ARENA + 4 * HUGE, 8 * PAGE
    mapper.call(NR_MUNMAP, ARENA + HUGE - PAGE, HUGE)
    for place in (old, new):
        mapper.map(place, 8)
        mapper.command(FILL, 5, place, size)
    mapper.answers()
    moving = move(mapper.app, tracker="comparison")
    moving.round()
    for seed in (6, 7):  # what is sent twice is kept
        mapper.command(POKE, seed, new, size)
        mapper.answers()
        moving.round()
    mapper.call(NR_MUNMAP, new, size)
    moving.round()
    assert mapper.call(NR_MREMAP, old, size, size, MAYMOVE | FIXED, new) == new
    mapper.command(POKE, 8, new, size // 2)
    mapper.answers()
    assert moving.round().pages <= 4 + A_FEW
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


SLOTS, ROOM = 12, 16  # places of so many pages, next to each other
ROUNDS = 12


class Blocks:
    """Memory in places that touch one another, moved about by a seed."""

    def __init__(self, mapper: Mapper, seed: int) -> None:
        self._mapper = mapper
        self._chance = random.Random(seed)
        self._pages: dict[int, int] = {}  # by slot
        for _ in range(SLOTS // 2):
            self._map()

    def act(self) -> None:
        """Do something to one of them."""
        actions = (self._move, self._move, self._map, self._unmap, self._poke, self._poke)
        self._chance.choice(actions)()

    def _place(self, slot: int) -> int:
        return ARENA + 8 * HUGE + slot * ROOM * PAGE

    def _free(self) -> int:
        return self._chance.choice([slot for slot in range(SLOTS) if slot not in self._pages])

    def _taken(self) -> int:
        return self._chance.choice(list(self._pages))

    def _map(self) -> None:
        if len(self._pages) < SLOTS - 1:
            slot = self._free()
            self._pages[slot] = pages = self._chance.randint(1, ROOM)
            self._mapper.map(self._place(slot), pages)
            self._mapper.command(
                FILL, self._chance.randrange(1 << 60), self._place(slot), pages * PAGE
            )

    def _move(self) -> None:
        """Move all of a block, or its end, and let it grow or shrink."""
        if len(self._pages) == SLOTS:
            return
        slot, wanted = self._taken(), self._free()
        stays = self._chance.choice((0, 0, self._chance.randrange(self._pages[slot])))
        pages = self._pages.pop(slot) - stays
        self._pages[wanted] = min(ROOM, max(1, pages + self._chance.choice((-3, 0, 0, 0, 5))))
        if stays:
            self._pages[slot] = stays
        start, place = self._place(slot) + stays * PAGE, self._place(wanted)
        sizes = (pages * PAGE, self._pages[wanted] * PAGE)
        assert self._mapper.call(NR_MREMAP, start, *sizes, MAYMOVE | FIXED, place) == place

    def _unmap(self) -> None:
        if len(self._pages) > 2:
            slot = self._taken()
            self._mapper.call(NR_MUNMAP, self._place(slot), self._pages.pop(slot) * PAGE)

    def _poke(self) -> None:
        slot = self._taken()
        pages = self._chance.randint(1, self._pages[slot])
        self._mapper.command(POKE, self._chance.randrange(1 << 60), self._place(slot), pages * PAGE)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + 6))
@pytest.mark.parametrize("known_by", KNOWING)
def test_no_page_is_lost_on_the_way(
    mapper: Mapper, move: Mover, known_by: TrackerChoice, seed: int
) -> None:
    """Whatever is moved how often between two rounds, and also while one is being sent."""
    blocks = Blocks(mapper, seed)
    mapper.answers()
    moving = move(mapper.app, tracker=known_by, cache=seed % 3 * 64 * PAGE)
    moved = 0
    send = moving.send

    def sending(kind: FrameType, body: dict[str, Any], payload: bytes = b"") -> None:
        nonlocal moved
        moved += len(body.get("moves", ()))
        send(kind, body, payload)
        if seed % 2 and not late:
            blocks.act()
            mapper.answers()

    moving.send = sending  # type: ignore[method-assign]
    for late in [False] * ROUNDS + [True]:
        for _ in range(3):
            blocks.act()
        mapper.answers()
        moving.freeze() if late else moving.round()
    assert differing(mapper.app, moving.target) == []
    assert moved
    mapper.app = moving.switch()
    assert mapper.call(NR_GETPID) == 1
