"""Pages on their way: as zero, as a delta against what the target holds, or whole.

A batch is a description (runs of pages of one kind: zeros first, then deltas, then whole pages)
and one lz4 block that holds the deltas and the whole pages in that order. A delta is the exclusive
or of old and new content: nearly all zeros, so that lz4 leaves little of it.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import lz4.block
import numpy as np

from livemig.errors import ProtocolError
from livemig.intervals import Span, merged, total
from livemig.system.memory import PAGE_SIZE

BATCH_PAGES = 256
_DELTA_WORDS = 128  # a page that differs in more words (of 8 bytes, 512 a page) goes whole


class PageKind(IntEnum):
    """How a run of pages is sent."""

    ZERO = 0
    DELTA = 1
    WHOLE = 2


@dataclass(frozen=True)
class Batch:
    """The body of a PAGES frame: runs of (address, pages, kind), and the size of the unpacked data.

    ``packed`` tells whether the payload is an lz4 block, or the data as they are.
    """

    pid: int
    runs: tuple[tuple[int, int, PageKind], ...]
    size: int
    packed: bool


@dataclass
class Counts:
    """Pages sent, by kind, and the bytes of their payloads."""

    zero: int = 0
    delta: int = 0
    whole: int = 0
    payload: int = 0

    @property
    def pages(self) -> int:
        """All pages."""
        return self.zero + self.delta + self.whole


class DeltaCache:
    """The last sent copies of pages that are written again and again; a fixed size, LRU."""

    def __init__(self, size: int) -> None:
        self._limit = size // PAGE_SIZE
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def get(self, address: int) -> bytes | None:
        """Return the copy of the page at ``address``."""
        return self._pages.get(address)

    def put(self, address: int, page: bytes) -> None:
        """Keep a copy, dropping the one that was not used for the longest time."""
        self._pages[address] = page
        self._pages.move_to_end(address)
        if len(self._pages) > self._limit:
            self._pages.popitem(last=False)

    def drop(self, spans: Iterable[Span]) -> None:
        """Forget the pages in ``spans``: the target does not hold them any more."""
        ordered = merged(spans)
        if total(ordered) <= len(self._pages) * PAGE_SIZE:
            for start, end in ordered:
                for address in range(start, end, PAGE_SIZE):
                    self._pages.pop(address, None)
            return
        starts = [start for start, _ in ordered]
        for address in list(self._pages):
            place = bisect.bisect_right(starts, address) - 1
            if place >= 0 and address < ordered[place][1]:
                del self._pages[address]


def batches(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Cut ``spans`` into lists of at most BATCH_PAGES pages each."""
    room = BATCH_PAGES * PAGE_SIZE
    part: list[Span] = []
    left = room
    for start, end in spans:
        place = start
        while place < end:
            size = min(left, end - place)
            part.append((place, place + size))
            place += size
            left -= size
            if not left:
                yield part
                part, left = [], room
    if part:
        yield part


class Packer:
    """Makes batches of pages, choosing for each page how it is sent."""

    def __init__(self, pid: int, cache: DeltaCache) -> None:
        self._pid = pid
        self._cache = cache
        self.counts = Counts()

    def pack(self, addresses: list[int], data: bytearray, repeated: bool) -> tuple[Batch, Any]:
        """Return description and payload for pages (4096 bytes each in ``data``).

        ``repeated`` tells that the target holds older copies of these pages: they are kept as the
        base of later deltas.
        """
        count = len(addresses)
        pages = np.frombuffer(data, np.uint64, count * PAGE_SIZE // 8).reshape(count, -1)
        kinds = np.where(pages.any(axis=1), int(PageKind.WHOLE), int(PageKind.ZERO))
        deltas = self._find_deltas(addresses, data, pages, kinds) if repeated else pages[:0]
        whole = kinds == int(PageKind.WHOLE)
        content = pages if whole.all() else np.concatenate((deltas, pages[whole]))
        unpacked = content.data.cast("B") if content.size else memoryview(b"")
        payload: Any = lz4.block.compress(unpacked, store_size=False) if unpacked else b""
        packed = len(payload) < len(unpacked)
        if not packed:
            payload = unpacked
        self._count(kinds, len(payload))
        order = np.argsort(kinds, kind="stable").tolist()
        places = [addresses[index] for index in order]
        runs = tuple(_runs(places, kinds[order].tolist()))
        return Batch(self._pid, runs, len(unpacked), packed), payload

    def _find_deltas(self, addresses: list[int], data: bytearray, pages: Any, kinds: Any) -> Any:
        """Mark in ``kinds`` the pages that go as deltas, and return these in their order."""
        copies = [self._cache.get(address) for address in addresses]
        for index, address in enumerate(addresses):
            start = index * PAGE_SIZE
            self._cache.put(address, bytes(data[start : start + PAGE_SIZE]))
        known = [
            index
            for index, copy in enumerate(copies)
            if copy is not None and kinds[index] != int(PageKind.ZERO)
        ]
        if not known:
            return pages[:0]
        old = b"".join(copy for index in known if (copy := copies[index]) is not None)
        deltas = pages[known] ^ np.frombuffer(old, np.uint64).reshape(len(known), -1)
        small = (deltas != 0).sum(axis=1) <= _DELTA_WORDS
        kinds[np.array(known)[small]] = int(PageKind.DELTA)
        return deltas[small]

    def _count(self, kinds: Any, payload: int) -> None:
        zero, delta, whole = np.bincount(kinds, minlength=3).tolist()
        self.counts.zero += zero
        self.counts.delta += delta
        self.counts.whole += whole
        self.counts.payload += payload


def zero_pages(data: bytearray) -> list[int]:
    """Return the places of the pages in ``data`` (4096 bytes each) that hold nothing but zeros."""
    words = np.frombuffer(data, np.uint64).reshape(-1, PAGE_SIZE // 8)
    found: list[int] = np.flatnonzero(~words.any(axis=1)).tolist()
    return found


def _runs(addresses: list[int], kinds: list[int]) -> Iterator[tuple[int, int, PageKind]]:
    start, count, current = 0, 0, -1
    for address, kind in zip(addresses, kinds, strict=True):
        if count and kind == current and address == start + count * PAGE_SIZE:
            count += 1
            continue
        if count:
            yield start, count, PageKind(current)
        start, count, current = address, 1, kind
    if count:
        yield start, count, PageKind(current)


def unpack(batch: Batch, payload: bytes | memoryview) -> bytes | memoryview:
    """Return deltas and whole pages of a batch; raises ProtocolError where the sizes do not fit."""
    if any(count <= 0 for _, count, _ in batch.runs):
        raise ProtocolError("a PAGES frame has a run of no pages")
    every = sum(count for _, count, _ in batch.runs)
    pages = sum(count for _, count, kind in batch.runs if kind is not PageKind.ZERO)
    if batch.size != pages * PAGE_SIZE or every > BATCH_PAGES:
        raise ProtocolError(f"a PAGES frame of {every} pages claims {batch.size} bytes")
    if not batch.packed:
        data: bytes | memoryview = payload
    else:
        try:
            data = lz4.block.decompress(payload, uncompressed_size=batch.size)
        except lz4.block.LZ4BlockError as error:
            raise ProtocolError(f"a PAGES frame does not unpack: {error}") from error
    if len(data) != batch.size:
        raise ProtocolError(f"a PAGES frame holds {len(data)} bytes, not {batch.size}")
    return data
