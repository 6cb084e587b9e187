"""Pages arrive as they left, whatever way they take; what does not fit is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livemig.errors import ProtocolError
from livemig.inject.held import Held
from livemig.inject.memory import PageWriter
from livemig.model import Kind, Mapping
from livemig.pages import BATCH_PAGES, Batch, DeltaCache, Packer, PageKind, batches, unpack
from livemig.wire import from_wire, to_wire

PAGE = 4096
START = 0x7000_0000_0000


class Target:
    """What the target makes of batches, page by page."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def apply(self, batch: Batch, payload: bytes | memoryview) -> None:
        batch = from_wire(Batch, to_wire(batch))
        data = bytes(unpack(batch, bytes(payload)))
        place = 0
        for address, count, kind in batch.runs:
            for page in range(address, address + count * PAGE, PAGE):
                if kind is PageKind.ZERO:
                    self.pages[page] = bytes(PAGE)
                    continue
                content = data[place : place + PAGE]
                place += PAGE
                if kind is PageKind.DELTA:
                    old = np.frombuffer(self.pages[page], np.uint8)
                    content = (old ^ np.frombuffer(content, np.uint8)).tobytes()
                self.pages[page] = content
        assert place == len(data)


def noise(seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(PAGE)


@dataclass
class Memory:
    """Pages that are written now and then."""

    pages: dict[int, bytes]

    def write(self, index: int, how: int) -> None:
        """Rewrite a page: 0 clears it, 1 replaces it, more changes that many bytes."""
        address = START + index * PAGE
        if how == 0:
            self.pages[address] = bytes(PAGE)
        elif how == 1:
            self.pages[address] = noise(len(self.pages) * 31 + index)
        else:
            page = bytearray(self.pages.get(address, noise(index)))
            for place in range(how):
                page[place * 3 % PAGE] ^= 0x5A
            self.pages[address] = bytes(page)


ROUNDS = st.lists(
    st.dictionaries(st.integers(0, 12), st.sampled_from((0, 1, 2, 40, 1023, 1024, 1025, 4000))),
    min_size=1,
    max_size=5,
)


@given(ROUNDS, st.integers(0, 10))
def test_what_arrives_is_what_left(rounds: list[dict[int, int]], cached: int) -> None:
    source, target, cache = Memory({}), Target(), DeltaCache(cached * PAGE)
    for writes in rounds:
        held = set(target.pages)
        for index, how in writes.items():
            source.write(index, how)
        written = sorted(START + index * PAGE for index in writes)
        for repeated in (True, False):
            addresses = [page for page in written if (page in held) is repeated]
            data = bytearray(b"".join(source.pages[page] for page in addresses))
            if addresses:
                target.apply(*Packer(1, cache).pack(addresses, data, repeated))
    assert target.pages == source.pages


def test_each_page_goes_the_smallest_way() -> None:
    cache, before, target = DeltaCache(1 << 20), noise(1), Target()
    packer = Packer(1, cache)
    addresses = [START + index * PAGE for index in range(4)]
    target.apply(*packer.pack(addresses, bytearray(before * 4), True))
    changed = bytearray(before)
    changed[100:108] = bytes(byte ^ 1 for byte in changed[100:108])
    content = bytes(PAGE) + bytes(changed) + noise(2) + bytes(changed)
    batch, payload = packer.pack(addresses, bytearray(content), True)
    assert sorted(batch.runs) == [
        (addresses[0], 1, PageKind.ZERO),
        (addresses[1], 1, PageKind.DELTA),
        (addresses[2], 1, PageKind.WHOLE),
        (addresses[3], 1, PageKind.DELTA),
    ]
    assert len(payload) < 1.1 * PAGE, "the deltas take next to nothing"
    target.apply(batch, payload)
    assert b"".join(target.pages[address] for address in addresses) == content
    counts = packer.counts
    assert (counts.zero, counts.delta, counts.whole, counts.pages) == (1, 2, 5, 8)


def test_neighbours_of_one_kind_make_one_run_and_gaps_part_them() -> None:
    addresses = [START, START + PAGE, START + 3 * PAGE, START + 4 * PAGE]
    data = bytearray(noise(1) + noise(2) + noise(3) + bytes(PAGE))
    batch, _ = Packer(7, DeltaCache(0)).pack(addresses, data, False)
    assert batch.pid == 7
    assert sorted(batch.runs) == [
        (START, 2, PageKind.WHOLE),
        (START + 3 * PAGE, 1, PageKind.WHOLE),
        (START + 4 * PAGE, 1, PageKind.ZERO),
    ]


def test_random_pages_are_sent_as_they_are() -> None:
    batch, payload = Packer(1, DeltaCache(0)).pack([START], bytearray(noise(1)), False)
    assert not batch.packed
    assert bytes(payload) == noise(1)


def test_only_zero_pages_need_no_payload() -> None:
    batch, payload = Packer(1, DeltaCache(0)).pack([START], bytearray(PAGE), False)
    assert (batch.size, len(payload)) == (0, 0)
    assert len(unpack(batch, bytes(payload))) == 0


def test_pages_that_the_target_lacks_are_not_cached() -> None:
    cache = DeltaCache(1 << 20)
    Packer(1, cache).pack([START], bytearray(noise(1)), False)
    assert cache.get(START) is None


SPANS = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 700)), max_size=6)


@given(SPANS)
def test_batches_cut_spans_and_lose_nothing(raw: list[tuple[int, int]]) -> None:
    spans, place = [], 0
    for gap, length in raw:
        spans.append(((place + gap) * PAGE, (place + gap + length) * PAGE))
        place += gap + length
    found = list(batches(spans))
    assert [a for part in found for s, e in part for a in range(s, e, PAGE)] == [
        a for s, e in spans for a in range(s, e, PAGE)
    ]
    sizes = [sum(end - start for start, end in part) for part in found]
    assert all(size == BATCH_PAGES * PAGE for size in sizes[:-1])
    assert all(0 < size <= BATCH_PAGES * PAGE for size in sizes)


# The cache of what was sent


def test_the_cache_drops_what_was_unused_for_longest() -> None:
    cache = DeltaCache(3 * PAGE)
    for address in (1, 2, 3):
        cache.put(address * PAGE, noise(address))
    cache.put(1 * PAGE, noise(9))
    cache.put(4 * PAGE, noise(4))
    assert cache.get(2 * PAGE) is None
    assert cache.get(1 * PAGE) == noise(9)
    assert cache.get(3 * PAGE) == noise(3)
    assert cache.get(4 * PAGE) == noise(4)


def test_a_cache_without_room_holds_nothing() -> None:
    cache = DeltaCache(PAGE - 1)
    cache.put(START, noise(1))
    assert cache.get(START) is None


@given(st.sets(st.integers(0, 40)), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9))))
def test_dropped_spans_are_forgotten_and_nothing_else(
    pages: set[int], raw: list[tuple[int, int]]
) -> None:
    cache = DeltaCache(1 << 20)
    for page in pages:
        cache.put(page * PAGE, noise(page))
    spans = [(start * PAGE, (start + length) * PAGE) for start, length in raw]
    cache.drop(spans)
    for page in range(50):
        dropped = any(start <= page * PAGE < end for start, end in spans)
        assert (cache.get(page * PAGE) is not None) == (page in pages and not dropped)


class Counted(OrderedDict[int, bytes]):
    """Counts the pages that are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[int]:
        for each in super().__iter__():
            self.looks += 1
            yield each

    def pop(self, *words: Any) -> Any:
        self.looks += 1
        return super().pop(*words)


@pytest.mark.parametrize("step", [4, 1])
def test_many_spans_are_dropped_from_a_full_cache_in_one_go(step: int) -> None:
    """It is part of the downtime: no span may cost a look at all pages."""
    cache = DeltaCache(64 << 20)
    content, size, spans = noise(1), 16384, 4 * 16384
    looked_at = cache._pages = Counted({page * PAGE: content for page in range(size)})
    cache.drop([(page * PAGE, (page + 1) * PAGE) for page in range(0, spans, step)])
    assert looked_at.looks <= size
    assert [cache.get(page * PAGE) for page in (0, 3)] == [None, content if step == 4 else None]


# Hostile batches


def whole(count: int, data: bytes | None = None) -> tuple[Batch, bytes]:
    data = noise(1) * count if data is None else data
    runs = ((START, count, PageKind.WHOLE),)
    packed = lz4.block.compress(data, store_size=False)
    return Batch(1, runs, len(data), True), packed


def test_the_honest_one_is_accepted() -> None:
    batch, payload = whole(3)
    assert bytes(unpack(batch, payload)) == noise(1) * 3
    assert bytes(unpack(replace(batch, packed=False), noise(1) * 3)) == noise(1) * 3


Twist = Callable[[Batch, bytes], tuple[Batch, bytes]]
RUN = (START, 1, PageKind.WHOLE)
TWISTS: dict[str, Twist] = {
    "size-too-small": lambda b, p: (replace(b, size=b.size - 1), p),
    "size-too-large": lambda b, p: (replace(b, size=b.size + PAGE), p),
    "size-negative": lambda b, p: (replace(b, size=-b.size), p),
    "size-huge": lambda b, p: (replace(b, size=1 << 60), p),
    "count-huge": lambda b, p: (replace(b, runs=((START, 1 << 40, PageKind.WHOLE),)), p),
    "count-and-size-huge": lambda b, p: (
        replace(b, runs=((START, 1 << 40, PageKind.WHOLE),), size=1 << 52),
        p,
    ),
    "too-many-zeros": lambda b, p: (
        replace(b, runs=(*b.runs, (START, 1 << 40, PageKind.ZERO))),
        p,
    ),
    "count-zero": lambda b, p: (replace(b, runs=(*b.runs, (START, 0, PageKind.WHOLE))), p),
    "count-negative": lambda b, p: (
        replace(b, runs=((START, -1, PageKind.WHOLE), (START, 4, PageKind.WHOLE))),
        p,
    ),
    "zeros-negative": lambda b, p: (replace(b, runs=(*b.runs, (START, -1, PageKind.ZERO))), p),
    "truncated-lz4": lambda b, p: (b, p[:-5]),
    "empty-lz4": lambda b, _: (b, b""),
    "noise-for-lz4": lambda b, _: (b, noise(5)),
    "more-in-lz4": lambda b, _: (b, lz4.block.compress(noise(1) * 4, store_size=False)),
    "less-in-lz4": lambda b, _: (b, lz4.block.compress(noise(1) * 2, store_size=False)),
    "bomb": lambda b, _: (b, lz4.block.compress(bytes(64 << 20), store_size=False)),
    "unpacked-too-short": lambda b, _: (replace(b, packed=False), noise(1)),
    "unpacked-too-long": lambda b, _: (replace(b, packed=False), noise(1) * 4),
}


@pytest.mark.parametrize("name", TWISTS)
def test_a_batch_that_lies_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="PAGES frame"):
        unpack(*TWISTS[name](*whole(3)))


@pytest.mark.parametrize(
    "body",
    [
        {"pid": 1, "runs": [[START, 1, 3]], "size": PAGE, "packed": False},
        {"pid": 1, "runs": [[START, 1]], "size": PAGE, "packed": False},
        {"pid": 1, "runs": [[START, "1", 2]], "size": PAGE, "packed": False},
        {"pid": 1, "runs": [[START, 1.5, 2]], "size": PAGE, "packed": False},
        {"pid": 1, "runs": {"0": 1}, "size": PAGE, "packed": False},
        {"pid": 1, "runs": [], "size": None, "packed": False},
        {"pid": 1, "runs": [], "size": 0},
        [],
    ],
)
def test_a_body_of_another_shape_is_refused(body: object) -> None:
    with pytest.raises(ProtocolError, match="Batch"):
        from_wire(Batch, body)


class Untouched:
    """A held process that must not be written to."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the held process was used ({name})")


def writer() -> PageWriter:
    found = PageWriter(cast(Held, Untouched()))
    found.follow(
        [
            Mapping(START, START + 4 * PAGE, 3, Kind.ANONYMOUS),
            Mapping(START + 4 * PAGE, START + 6 * PAGE, 1, Kind.VVAR),
            Mapping(START + 6 * PAGE, START + 8 * PAGE, 5, Kind.VDSO),
            Mapping(START + 10 * PAGE, START + 12 * PAGE, 3, Kind.ANONYMOUS),
            Mapping(START + 12 * PAGE, START + 14 * PAGE, 5, Kind.FOREIGN),
            Mapping(START + 16 * PAGE, START + 18 * PAGE, 3, Kind.ANONYMOUS),
        ]
    )
    return found


PLACES = {
    "below": START - PAGE,
    "before-all": 0,
    "negative": -PAGE,
    "unaligned": START + 8,
    "into-vvar": START + 2 * PAGE,
    "vvar": START + 4 * PAGE,
    "vdso": START + 6 * PAGE,
    "foreign-vdso": START + 12 * PAGE,
    "gap-after-vdso": START + 8 * PAGE,
    "into-foreign-vdso": START + 11 * PAGE,
    "into-gap": START + 13 * PAGE,
    "gap": START + 14 * PAGE,
    "above": START + 18 * PAGE,
    "kernel": 1 << 63,
    "beyond-64-bits": 1 << 70,
}


@pytest.mark.parametrize("kind", PageKind)
@pytest.mark.parametrize("place", PLACES)
def test_pages_outside_the_layout_are_refused_before_any_is_written(
    place: str, kind: PageKind
) -> None:
    size = 0 if kind is PageKind.ZERO else 3 * PAGE
    batch = Batch(1, ((PLACES[place], 3, kind),), size, False)
    with pytest.raises(ProtocolError, match="pages at"):
        writer().apply(batch, bytes(size))


def test_runs_out_of_order_are_refused() -> None:
    runs = ((START, 1, PageKind.WHOLE), (START + PAGE, 1, PageKind.ZERO))
    with pytest.raises(ProtocolError, match="order"):
        writer().apply(Batch(1, runs, PAGE, False), noise(1))


@pytest.mark.parametrize("place", PLACES)
def test_pages_outside_the_layout_are_not_dropped(place: str) -> None:
    at = PLACES[place]

    class WithTable(Untouched):
        class stub:  # noqa: N801
            table: Callable[[], list[object]] = staticmethod(list)

    found = writer()
    found._held = cast(Held, WithTable())
    with pytest.raises(ProtocolError, match="pages at"):
        found.drop([(at, at + 3 * PAGE)])
