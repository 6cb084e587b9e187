"""The pages that a process owns are told from those that come back by themselves."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livemig.intervals import Span, merged
from livemig.model import Kind, Mapping
from livemig.pagemap import Entries, Pagemap, carried, zero_frame

PAGE = mmap.PAGESIZE
COUNT = 64


@contextmanager
def region(file: Path | None = None) -> Iterator[tuple[mmap.mmap, Mapping]]:
    """Map COUNT private pages, and yield them with what the engine would call them."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    descriptor = -1 if file is None else os.open(file, os.O_RDWR)
    flags = mmap.MAP_PRIVATE | (mmap.MAP_ANONYMOUS if file is None else 0)
    data = mmap.mmap(descriptor, COUNT * PAGE, flags, protection)
    if descriptor >= 0:
        os.close(descriptor)
    if file is None and hasattr(mmap, "MADV_NOHUGEPAGE"):
        data.madvise(mmap.MADV_NOHUGEPAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(data))
    kind = Kind.ANONYMOUS if file is None else Kind.FILE
    try:
        yield data, Mapping(start, start + COUNT * PAGE, 3, kind, 0, str(file or ""))
    finally:
        data.close()


@contextmanager
def own_pagemap(*, scan: bool) -> Iterator[Pagemap]:
    pagemap = Pagemap(os.getpid())
    try:
        if scan and not pagemap.can_scan:
            pytest.skip("this kernel has no PAGEMAP_SCAN (Linux 6.7)")
        pagemap.can_scan = scan
        yield pagemap
    finally:
        pagemap.close()


def spans(mapping: Mapping, pages: set[int]) -> list[Span]:
    base = mapping.start
    return merged((base + page * PAGE, base + (page + 1) * PAGE) for page in pages)


WAYS = pytest.mark.parametrize("scan", [True, False], ids=["scan", "read"])


@WAYS
@given(st.sets(st.integers(0, COUNT - 1)), st.sets(st.integers(0, COUNT - 1)))
@settings(max_examples=40, deadline=None)
def test_written_pages_are_owned(scan: bool, written: set[int], given_up: set[int]) -> None:
    with own_pagemap(scan=scan) as pagemap, region() as (data, mapping):
        for page in written:
            data[page * PAGE] = 1
        for page in given_up:
            data.madvise(mmap.MADV_DONTNEED, page * PAGE, PAGE)
        assert pagemap.private_pages([mapping]) == spans(mapping, written - given_up)


@WAYS
def test_only_changed_pages_of_a_file_are_owned(tmp_path: Path, scan: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * COUNT * PAGE)
    with own_pagemap(scan=scan) as pagemap, region(file) as (data, mapping):
        assert sum(data[page * PAGE] for page in range(COUNT)) == COUNT * ord("x")
        assert pagemap.private_pages([mapping]) == []
        for page in (3, 4, 9):
            data[page * PAGE] = 1
        assert pagemap.private_pages([mapping]) == spans(mapping, {3, 4, 9})


@WAYS
def test_the_zero_page_is_not_owned(scan: bool) -> None:
    if not scan and not zero_frame():
        pytest.skip("needs root to see page frames")
    with own_pagemap(scan=scan) as pagemap, region() as (data, mapping):
        assert sum(data[page * PAGE] for page in range(COUNT)) == 0
        assert pagemap.private_pages([mapping]) == []


@WAYS
def test_a_scan_that_needs_several_turns_finds_all(
    scan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livemig.system.entries.AT_ONCE", 5)
    monkeypatch.setattr("livemig.pagemap.AT_ONCE", 5)
    shorten: Callable[[int], object] = lambda descriptor: _scanner(descriptor, 3)  # noqa: E731
    monkeypatch.setattr("livemig.pagemap.Scanner", shorten)
    with own_pagemap(scan=scan) as pagemap, region() as (data, mapping):
        pages = set(range(0, COUNT, 2))
        for page in pages:
            data[page * PAGE] = 1
        assert pagemap.private_pages([mapping]) == spans(mapping, pages)


def _scanner(descriptor: int, regions: int) -> object:
    from livemig.system.uffd import Scanner  # noqa: PLC0415

    return Scanner(descriptor, regions)


ABSENT, PRESENT, SWAPPED, FILE, DIRTY = 0, 1 << 63, 1 << 62, 1 << 61, 1 << 55
THERE = PRESENT | zero_frame() + 1
OWN = (THERE, THERE | DIRTY, SWAPPED, SWAPPED | DIRTY)
OTHERS = (ABSENT, DIRTY, THERE | FILE, THERE | FILE | DIRTY)  # a new mapping has all bits set
MANY = 70_000  # more than are looked through at once

stretches = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.sampled_from(OWN + OTHERS), min_size=1, max_size=9)),
    max_size=12,
)


@given(stretches, st.integers(0, 12))
@settings(deadline=None)
def test_stretches_of_any_length_and_distance(found: list[tuple[int, list[int]]], big: int) -> None:
    chunks, own, number = [], [], 1 << 30
    for index, (distance, few) in enumerate(found):
        number += distance
        entries = few + [ABSENT] * MANY if index == big else few
        chunks.append((number, np.array(entries, np.uint64)))
        own += [(number + at, entry) for at, entry in enumerate(few) if entry in OWN]
        number += len(entries)
    looked = Entries(chunks)
    dirty = [page for page, entry in own if entry & DIRTY]
    for owned, pages in ((looked.owned(), [page for page, _ in own]), (looked.dirty(), dirty)):
        assert owned == merged((page * PAGE, (page + 1) * PAGE) for page in pages)


def test_the_kernels_own_pages_are_not_carried() -> None:
    mappings = [Mapping(PAGE * n, PAGE * (n + 1), 1, kind) for n, kind in enumerate(Kind)]
    assert {mapping.kind for mapping in carried(mappings)} == {
        Kind.ANONYMOUS,
        Kind.FILE,
        Kind.STACK,
    }
