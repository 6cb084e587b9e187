"""What was moved is told by what it holds, and both sides count it alike."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livemig.errors import ProtocolError
from livemig.intervals import merged
from livemig.layout import Change, difference, settled
from livemig.model import Kind, Mapping
from livemig.relocation import (
    MOST,
    Relocation,
    guess,
    leavings,
    relocate,
    relocate_spans,
    rooms,
)
from tests.unit.test_layout import layouts, pages

PAGE = 4096
ONE = Mapping(10 * PAGE, 20 * PAGE, 3, Kind.ANONYMOUS)
FAR = 1 << 30


@given(layouts(), st.randoms(use_true_random=False))
def test_what_was_moved_and_is_known_again_is_not_mapped_anew(
    old: list[Mapping], chance: random.Random
) -> None:
    """Mappings are moved whole or in part, some grow: what is left to map is what they grew by."""
    new, place, true, grown = [], FAR, [], 0
    for each in old:
        if each.kind is not Kind.ANONYMOUS:
            new.append(each)
            continue
        start, more = chance.choice(list(pages(each))), chance.randrange(3) * PAGE
        true.append((start, each.end, place))
        if start > each.start and chance.random() < 0.5:
            new.append(replace(each, end=start))
        new.append(replace(each, start=place, end=place + each.end - start + more))
        grown += more
        place = new[-1].end + chance.choice((0, PAGE))
    new.sort(key=lambda each: each.start)
    change = difference(old, new)
    gone, to = leavings(old, change.unmapped), rooms(old, change.mapped)
    pairs = [
        (page, page - start + at) for start, end, at in true for page in range(start, end, PAGE)
    ]
    moves = guess(gone, to, chance.sample(pairs, len(pairs)))
    assert sorted(moves) == sorted(true)
    moved = relocate(old, moves)
    after = difference(moved, settled(moved, new))
    assert sum(each.length for each in after.mapped) == grown
    held = merged((start, end) for start, end, _ in true)
    assert relocate_spans(held, moves) == merged((at, at + b - a) for a, b, at in true)


def test_a_wrong_guess_maps_no_page_twice() -> None:
    """Two places show what one had: only one of them gets it."""
    to = [(FAR, FAR + 10 * PAGE), (FAR * 2, FAR * 2 + 10 * PAGE)]
    same = [(page, page - ONE.start + place) for place, _ in to for page in pages(ONE)]
    assert guess([(ONE.start, ONE.end)], to, same) == [(ONE.start, ONE.end, FAR)]


WRONG: dict[str, list[Relocation]] = {
    "nothing there": [(30 * PAGE, 31 * PAGE, FAR)],
    "beyond its end": [(10 * PAGE, 21 * PAGE, FAR)],
    "empty": [(10 * PAGE, 10 * PAGE, FAR)],
    "backwards": [(12 * PAGE, 11 * PAGE, FAR)],
    "unaligned": [(10 * PAGE + 8, 11 * PAGE, FAR)],
    "unaligned place": [(10 * PAGE, 11 * PAGE, FAR + 8)],
    "the stack": [(40 * PAGE, 41 * PAGE, FAR)],
    "a file": [(50 * PAGE, 51 * PAGE, FAR)],
    "onto itself": [(10 * PAGE, 12 * PAGE, 11 * PAGE)],
    "onto the stack": [(10 * PAGE, 12 * PAGE, 39 * PAGE)],
    "from where one has come": [(14 * PAGE, 15 * PAGE, 10 * PAGE), (10 * PAGE, 11 * PAGE, FAR)],
    "twice": [(10 * PAGE, 12 * PAGE, FAR), (11 * PAGE, 13 * PAGE, 2 * FAR)],
    "two to one": [(10 * PAGE, 12 * PAGE, FAR), (12 * PAGE, 14 * PAGE, FAR)],
    "in a chain": [(10 * PAGE, 12 * PAGE, FAR), (FAR, FAR + PAGE, 2 * FAR)],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_move_that_cannot_be_is_refused(name: str) -> None:
    stack = Mapping(40 * PAGE, 42 * PAGE, 1, Kind.STACK)
    with pytest.raises(ProtocolError, match="move"):
        relocate(
            [ONE, stack, replace(stack, kind=Kind.FILE, start=50 * PAGE, end=51 * PAGE)],
            WRONG[name],
        )


def test_more_moves_than_one_layout_may_have_are_refused() -> None:
    large = replace(ONE, end=ONE.start + (MOST + 1) * PAGE)
    moves = [(page, page + PAGE, page + FAR) for page in pages(large)]
    assert relocate([large], moves[:-1])[0].start == moves[-1][0], "all others have gone"
    with pytest.raises(ProtocolError, match=f"{MOST + 1} moves in one layout"):
        relocate([large], moves)


def test_what_was_moved_and_then_grew_is_grown() -> None:
    """Nothing that is mapped behind it would be joined to it, and mremap(2) moves one mapping."""
    to = ONE.start + FAR
    moved = relocate([ONE], [(ONE.start, ONE.end, to)])
    longer = replace(ONE, start=to, end=moved[0].end + 3 * PAGE, prot=1)
    here = settled(moved, [longer])
    more = replace(here[0], start=moved[0].end)
    assert more.offset == FAR
    spans = [(to, moved[0].end, 1), (moved[0].end, longer.end, 1)]
    change = difference(moved, here)
    assert change == Change((), (more,), tuple(spans), ((*spans[1][:2], (), ()),))
    assert difference(here, settled(here, [longer])) == Change((), (), ())


def test_what_was_moved_and_is_replaced_was_not_moved() -> None:
    """Nothing of it is there to be grown."""
    moved = relocate([ONE], [(ONE.start, ONE.end, ONE.start + FAR)])
    new = replace(ONE, start=moved[0].start, end=moved[0].end, flags=("nr",))
    change = difference(moved, settled(moved, [new]))
    assert change == Change(((new.start, new.end),), (new,), ())


@pytest.mark.parametrize("old", [[], [replace(ONE, flags=("nr",))]], ids=["nothing", "other"])
def test_what_a_source_says_of_it_does_not_count(old: list[Mapping]) -> None:
    told = replace(ONE, offset=PAGE)
    assert settled([replace(each, offset=PAGE) for each in old], [told]) == (ONE,)
    assert difference(old, settled(old, [told])).mapped == (ONE,)


def test_what_was_moved_otherwise_than_what_is_before_it_goes() -> None:
    """On the source it is one mapping; here it would be two."""
    other = replace(ONE, start=40 * PAGE, end=50 * PAGE)
    moved = relocate([ONE, other], [(other.start, other.end, ONE.end)])
    whole = replace(ONE, end=30 * PAGE)
    change = difference(moved, settled(moved, [whole]))
    assert change.unmapped == ((20 * PAGE, 30 * PAGE),)
    assert change.mapped == (replace(ONE, start=20 * PAGE, end=30 * PAGE),)
