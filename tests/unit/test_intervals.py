"""Ranges behave as the sets of addresses that they stand for."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from livemig.intervals import Span, clipped, intersect, merged, subtract, total

LOOSE = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)
SPANS = LOOSE.map(merged)


def units(spans: list[Span]) -> set[int]:
    return {unit for start, end in spans for unit in range(start, end)}


def assert_in_order(spans: list[Span]) -> None:
    """Sorted, not empty, and never touching: one way to write each set."""
    for start, end in spans:
        assert start < end
    for (_, end), (start, _) in pairwise(spans):
        assert end < start


@given(LOOSE)
def test_merged_is_the_same_set_in_its_one_form(spans: list[Span]) -> None:
    found = merged(spans)
    assert units(found) == units(spans)
    assert_in_order(found)


@given(SPANS, SPANS)
def test_subtract_and_intersect_are_those_of_sets(left: list[Span], right: list[Span]) -> None:
    for found, wanted in (
        (subtract(left, right), units(left) - units(right)),
        (intersect(left, right), units(left) & units(right)),
    ):
        assert units(found) == wanted
        assert_in_order(found)


@given(SPANS, st.integers(0, 40), st.integers(0, 40))
def test_clipped_is_what_lies_in_one_range(spans: list[Span], start: int, end: int) -> None:
    assert clipped(spans, start, end) == intersect(spans, merged([(start, end)]))


@given(SPANS)
def test_total_counts_each_address_once(spans: list[Span]) -> None:
    assert total(spans) == len(units(spans))


@given(SPANS, SPANS)
def test_the_arguments_are_left_alone(left: list[Span], right: list[Span]) -> None:
    before = list(left), list(right)
    merged(left)
    subtract(left, right)
    intersect(left, right)
    assert (left, right) == before
