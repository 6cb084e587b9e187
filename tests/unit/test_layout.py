"""``difference`` leads from one layout to another, and loses no more pages than it must."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livemig.errors import ProtocolError
from livemig.incoming import _check_order
from livemig.layout import Change, difference, free_hole
from livemig.model import Kind, Mapping
from livemig.system.memory import user_start

PAGE = 4096
Backing = tuple[object, ...]
Model = dict[int, tuple[Backing, int, bool]]  # page: what it shows, protection, kept from before


def backing(mapping: Mapping, page: int) -> Backing:
    """Say what a page of a mapping shows, so that equal means the same bytes."""
    if mapping.kind is Kind.FILE:
        return mapping.kind, mapping.path, mapping.offset + page - mapping.start
    if mapping.kind.is_kernels:
        return mapping.kind, mapping.start, mapping.end
    return (mapping.kind,)


def pages(mapping: Mapping) -> range:
    return range(mapping.start, mapping.end, PAGE)


def model(layout: list[Mapping], *, kept: bool) -> Model:
    return {page: (backing(each, page), each.prot, kept) for each in layout for page in pages(each)}


def carry_out(before: Model, change: Change) -> Model:
    """Do what a back end does with a change, as strictly as the kernel with its flags."""
    after = dict(before)
    for start, end in change.unmapped:
        for page in range(start, end, PAGE):
            del after[page]
    for mapping in change.mapped:
        for page in pages(mapping):
            assert page not in after, "MAP_FIXED_NOREPLACE would refuse"
            after[page] = (backing(mapping, page), mapping.prot, False)
    for start, end, prot in change.protected:
        for page in range(start, end, PAGE):
            what, old, kept = after[page]
            assert kept, "what is new is mapped with its protection"
            assert old != prot, "nothing to change"
            after[page] = (what, prot, kept)
    return after


@st.composite
def layouts(draw: st.DrawFn) -> list[Mapping]:
    place, found = 16 * PAGE, []
    for _ in range(draw(st.integers(0, 7))):
        start = place + draw(st.integers(0, 3)) * PAGE
        end = start + draw(st.integers(1, 5)) * PAGE
        kind = draw(st.sampled_from(Kind))
        mapping = Mapping(start, end, draw(st.sampled_from((0, 1, 3, 5))), kind)
        if kind is Kind.FILE:
            path = draw(st.sampled_from(("/bin/a", "/bin/b")))
            mapping = replace(mapping, path=path, offset=draw(st.integers(0, 4)) * PAGE)
        found.append(mapping)
        place = end
    return found


@given(layouts(), layouts())
def test_the_change_leads_from_the_old_layout_to_the_new(
    old: list[Mapping], new: list[Mapping]
) -> None:
    after = carry_out(model(old, kept=True), difference(old, new))
    assert {page: seen[:2] for page, seen in after.items()} == {
        page: seen[:2] for page, seen in model(new, kept=False).items()
    }


@given(layouts(), layouts())
def test_exactly_the_pages_that_show_the_same_bytes_are_kept(
    old: list[Mapping], new: list[Mapping]
) -> None:
    before, wanted = model(old, kept=True), model(new, kept=False)
    after = carry_out(before, difference(old, new))
    kept = {page for page, (_, _, is_kept) in after.items() if is_kept}
    assert kept == {
        page for page in before.keys() & wanted.keys() if before[page][0] == wanted[page][0]
    }


@given(layouts())
def test_a_layout_that_stays_needs_no_change(layout: list[Mapping]) -> None:
    assert not difference(layout, layout)


@given(layouts())
def test_all_is_mapped_where_nothing_was_and_back(layout: list[Mapping]) -> None:
    assert difference([], layout).mapped == tuple(layout)
    assert difference(layout, []).unmapped == tuple((each.start, each.end) for each in layout)


def test_what_is_left_of_a_cut_file_mapping_shows_the_right_bytes() -> None:
    whole = Mapping(10 * PAGE, 20 * PAGE, 1, Kind.FILE, 5 * PAGE, "/bin/a")
    middle = Mapping(13 * PAGE, 16 * PAGE, 3, Kind.ANONYMOUS)
    cut = [
        replace(whole, end=middle.start),
        middle,
        replace(whole, start=middle.end, offset=11 * PAGE),
    ]
    assert difference([whole], cut) == Change(((13 * PAGE, 16 * PAGE),), (middle,), ())
    again = difference(cut, [whole])
    assert again.mapped == (Mapping(13 * PAGE, 16 * PAGE, 1, Kind.FILE, 8 * PAGE, "/bin/a"),)


def test_a_file_mapping_that_slid_by_a_page_shows_other_bytes() -> None:
    old = Mapping(10 * PAGE, 12 * PAGE, 1, Kind.FILE, PAGE, "/bin/a")
    new = replace(old, offset=2 * PAGE)
    assert difference([old], [new]) == Change(((10 * PAGE, 12 * PAGE),), (new,), ())


def test_a_file_that_is_shared_now_is_mapped_anew() -> None:
    old = Mapping(10 * PAGE, 12 * PAGE, 1, Kind.FILE, PAGE, "/bin/a")
    new = replace(old, flags=("ms",))
    assert difference([old], [new]) == Change(((10 * PAGE, 12 * PAGE),), (new,), ())


def test_a_grown_stack_keeps_its_pages() -> None:
    old = Mapping(10 * PAGE, 12 * PAGE, 3, Kind.STACK)
    new = replace(old, start=8 * PAGE)
    assert difference([old], [new]) == Change((), (replace(new, end=10 * PAGE),), ())


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))), st.integers(1, 20))
def test_a_free_hole_is_the_first_one(places: list[tuple[int, int]], size: int) -> None:
    taken = [(start, start + length) for start, length in places]
    used = {unit for start, end in taken for unit in range(start, end)}

    def fits(address: int) -> bool:
        return used.isdisjoint(range(address, address + size))

    found = free_hole(taken, size, 7)
    assert found == next(address for address in range(7, 200) if fits(address))


def test_an_order_for_the_lowest_pages_is_refused() -> None:
    lowest = user_start()
    _check_order([Mapping(lowest, lowest + PAGE, 3, Kind.ANONYMOUS)])
    with pytest.raises(ProtocolError, match=r"below vm\.mmap_min_addr at 0x"):
        _check_order([Mapping(lowest - PAGE, lowest, 3, Kind.ANONYMOUS)])
