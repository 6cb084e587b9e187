"""What the kernel tells of moves is put together so that nothing is claimed that is not so."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livemig.intervals import Span, intersect, merged, total
from livemig.model import Kind, Mapping
from livemig.relocation import MOST, Relocation, relocate, relocate_spans
from livemig.travels import Travels

PAGE = 4096
PAGES = 48
FAR = 1 << 30


def pages(spans: list[Span]) -> Iterator[int]:
    return (page for start, end in spans for page in range(start, end, PAGE))


def mapped(places: set[int]) -> list[Mapping]:
    spans = merged((page, page + PAGE) for page in places)
    return [Mapping(start, end, 3, Kind.ANONYMOUS) for start, end in spans]


@dataclass
class Memory:
    """Pages by address: each says where it was at first; None is fresh, and not registered."""

    at: dict[int, int | None]
    travels: Travels

    def move(self, start: int, length: int, to: int, *, shrinks: int = 0) -> None:
        """Move memory; where it shrinks as well, more is told than is true."""
        found = [self.at.get(page) for page in range(start, start + length, PAGE)]
        if None in found:
            return  # several mappings, or one that is not registered
        self.unmap(start, length)
        for number, page in enumerate(range(to, to + length - shrinks, PAGE)):
            self.at[page] = found[number]
        self.travels.note(start, length, to)

    def unmap(self, start: int, length: int) -> None:
        for page in range(start, start + length, PAGE):
            self.at.pop(page, None)

    def map(self, start: int, length: int) -> None:
        self.at |= dict.fromkeys(range(start, start + length, PAGE))


def act(memory: Memory, chance: random.Random) -> None:
    length = chance.randint(1, chance.choice((2, 8, 16))) * PAGE
    start, to = (chance.randrange(PAGES - length // PAGE) * PAGE for _ in range(2))
    match chance.choice(("move", "move", "move", "shrink", "unmap", "map")):
        case "unmap":
            memory.unmap(start, length)
        case "map":
            memory.map(start, length)
        case what if start + length <= to or to + length <= start:
            memory.move(start, length, to, shrinks=length // 2 & -PAGE if what == "shrink" else 0)


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_what_is_claimed_to_have_moved_has(chance: random.Random, count: int) -> None:
    first = {page * PAGE for page in range(PAGES) if chance.random() < 0.8}
    memory = Memory({page: page for page in first}, Travels())
    old = mapped(first)
    memory.travels.begin([(each.start, each.end) for each in old])
    for _ in range(count):
        act(memory, chance)
    held = merged((page, page + PAGE) for page in first if chance.random() < 0.9)
    moves, elsewhere = memory.travels.relocations(old, mapped(set(memory.at)), held)
    relocate(old, moves)
    after = relocate_spans(held, moves)
    came = {page - start + to: page for start, end, to in moves for page in range(start, end, PAGE)}
    for page in pages(after):
        was = memory.at.get(page)
        if was is not None and not intersect(elsewhere, [(page, page + PAGE)]):
            assert came.get(page, page) == was
    assert set(came) <= set(pages(memory.travels.touched))


@pytest.mark.parametrize("count", [1, 5])
def test_what_is_moved_again_and_again_is_one_move(count: int) -> None:
    travels = Travels()
    for number in range(count):
        travels.note(number * FAR, 8 * PAGE, (number + 1) * FAR)
    old = [Mapping(0, 8 * PAGE, 3, Kind.ANONYMOUS)]
    new = [Mapping(count * FAR, count * FAR + 8 * PAGE, 3, Kind.ANONYMOUS)]
    moves, elsewhere = travels.relocations(old, new, [(0, 4 * PAGE)])
    assert moves == [(0, 8 * PAGE, count * FAR)]
    assert elsewhere == []
    assert total(travels.touched) == (count + 1) * 8 * PAGE


def test_memory_may_come_to_where_other_memory_has_left() -> None:
    travels = Travels()
    travels.note(0, PAGE, FAR)
    travels.note(PAGE, PAGE, 0)
    travels.note(2 * PAGE, PAGE, PAGE)
    old = [Mapping(0, 3 * PAGE, 3, Kind.ANONYMOUS)]
    new = [Mapping(0, 2 * PAGE, 3, Kind.ANONYMOUS), Mapping(FAR, FAR + PAGE, 3, Kind.ANONYMOUS)]
    moves, elsewhere = travels.relocations(old, new, [(0, 3 * PAGE)])
    assert moves == [(0, PAGE, FAR), (PAGE, 2 * PAGE, 0), (2 * PAGE, 3 * PAGE, PAGE)]
    assert elsewhere == []


def test_what_changes_places_is_sent_but_for_one_of_both() -> None:
    """The target would need a third place."""
    travels = Travels()
    for start, to in ((0, FAR), (PAGE, 0), (FAR, PAGE)):
        travels.note(start, PAGE, to)
    old = [Mapping(0, 2 * PAGE, 3, Kind.ANONYMOUS)]
    moves, elsewhere = travels.relocations(old, old, [(0, 2 * PAGE)])
    assert moves == []
    assert elsewhere == [(0, 2 * PAGE)]


def test_of_too_many_those_of_most_pages_are_moved() -> None:
    travels = Travels()
    old, new, held = [], [], []
    for number in range(MOST + 20):
        start, to, size = number * FAR, number * FAR + FAR // 2, (number + 1) * PAGE
        travels.note(start, size, to)
        old.append(Mapping(start, start + size, 3, Kind.ANONYMOUS))
        new.append(Mapping(to, to + size, 3, Kind.ANONYMOUS))
        held.append((start, start + size))
    moves, elsewhere = travels.relocations(old, new, held)
    assert len(moves) == MOST
    assert min(end - start for start, end, _ in moves) == 21 * PAGE
    assert len(elsewhere) == 20


def test_what_cannot_be_told_apart_any_more_is_all_in_doubt() -> None:
    travels = Travels()
    chance = random.Random(1)
    for _ in range(3000):
        travels.note(chance.randrange(FAR) * PAGE, PAGE, chance.randrange(FAR) * PAGE)
    old = [Mapping(0, FAR, 3, Kind.ANONYMOUS)]
    moves, elsewhere = travels.relocations(old, old, [(0, FAR)])
    assert moves == []
    assert intersect([(0, FAR)], elsewhere) == [(0, FAR)]


def test_memory_that_was_replaced_is_held_no_more() -> None:
    moves: list[Relocation] = [(0, PAGE, 4 * PAGE)]
    assert relocate_spans([(0, PAGE), (4 * PAGE, 6 * PAGE)], moves) == [(4 * PAGE, 6 * PAGE)]
