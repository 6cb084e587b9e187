"""The table of hashes is a dictionary that takes ten bytes a page."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from livemig.intervals import Span, merged
from livemig.system.memory import PAGE_SIZE
from livemig.tracker.hashes import HashTable, PageHasher

PART = 1 << 16
# Few places, so that they meet again, on both sides of where a part ends.
PAGES = st.one_of(st.integers(0, 5), st.integers(PART - 3, PART + 3), st.just(5 * PART))
STEPS = st.lists(
    st.one_of(
        st.dictionaries(PAGES, st.integers(0, 3)),
        st.lists(st.tuples(PAGES, PAGES)),
    ),
    max_size=8,
)


def addresses(pages: list[int]) -> list[int]:
    return [page * PAGE_SIZE for page in pages]


@given(STEPS, st.dictionaries(PAGES, st.integers(0, 3)))
def test_it_behaves_as_a_dictionary(
    steps: list[dict[int, int] | list[tuple[int, int]]], asked: dict[int, int]
) -> None:
    table, model = HashTable(), dict[int, int]()
    for step in steps:
        if isinstance(step, dict):
            pages = sorted(step)
            table.put(addresses(pages), np.array([step[page] for page in pages], np.uint64))
            model |= step
        else:
            kept: list[Span] = merged((a * PAGE_SIZE, b * PAGE_SIZE) for a, b in step)
            table.keep(kept)
            model = {
                page: number
                for page, number in model.items()
                if any(start <= page * PAGE_SIZE < end for start, end in kept)
            }
    pages = sorted(asked)
    found = table.differ(addresses(pages), np.array([asked[page] for page in pages], np.uint64))
    assert found.tolist() == [model.get(page) != asked[page] for page in pages]
    assert table.size == 10 * len(model)


@given(
    st.dictionaries(PAGES, st.integers(0, 3)),
    st.tuples(PAGES, PAGES).map(sorted),
    st.sampled_from((7 * PART, 8 * PART - 2, 9 * PART + 5)),
    st.sets(st.integers(0, 3)),
)
def test_pages_are_moved_and_found_by_their_numbers(
    model: dict[int, int], span: list[int], to: int, wanted: set[int]
) -> None:
    table, pages, (start, end) = HashTable(), sorted(model), span
    table.put(addresses(pages), np.array([model[page] for page in pages], np.uint64))
    table.move(start * PAGE_SIZE, end * PAGE_SIZE, to * PAGE_SIZE)
    moved = {page + (to - start if start <= page < end else 0): model[page] for page in pages}
    within = [(start * PAGE_SIZE, (to + 3) * PAGE_SIZE)]
    places, numbers = table.find(within, np.array(sorted(wanted), np.uint64))
    found = dict(zip((places // PAGE_SIZE).tolist(), numbers.tolist(), strict=True))
    assert found == {
        page: number
        for page, number in moved.items()
        if number in wanted and start <= page < to + 3
    }
    assert table.size == 10 * len(model)


def test_pages_that_differ_in_one_bit_have_other_hashes() -> None:
    hasher, data = PageHasher(), bytearray(random.Random(0).randbytes(PAGE_SIZE)) * 64
    for page in range(1, 64):
        data[page * PAGE_SIZE + page * 63] ^= 1 << page % 8
    found = hasher(data)
    assert len(set(found.tolist())) == 64
    assert hasher(data).tolist() == found.tolist()
    assert not set(PageHasher()(data).tolist()) & set(found.tolist())  # a secret of its own
