"""Hashes of pages by address, in 10 bytes a page: 0.25 % of what they stand for."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash

from livemig.intervals import Span, clipped
from livemig.system.memory import PAGE_SIZE

_PART = 1 << 16  # pages whose places fit 16 bits
_PART_BYTES = _PART * PAGE_SIZE


class PageHasher:
    """64-bit hashes of pages (XXH3), with a secret of its own.

    A page is compared with its own last content, or with that of the page that was moved there: a
    change goes unseen once in 2**64 comparisons, whatever the number of pages, less often than
    memory itself errs. Whoever writes the pages cannot aim at it without the secret.
    """

    def __init__(self) -> None:
        self._seed = secrets.randbits(64)

    def __call__(self, data: bytearray) -> Any:
        """Return the hashes (uint64) of the pages in ``data``, one after the other."""
        view, seed, digest = memoryview(data), self._seed, xxhash.xxh3_64_intdigest
        places = range(0, len(data), PAGE_SIZE)
        found = (digest(view[at : at + PAGE_SIZE], seed) for at in places)
        return np.fromiter(found, np.uint64, len(places))


class HashTable:
    """Maps the addresses of pages to 64-bit numbers.

    For each part of the address space there are two arrays, in the order of the pages: their places
    in the part (16 bits) and the numbers.
    """

    def __init__(self) -> None:
        self._parts: dict[int, tuple[Any, Any]] = {}

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        return sum(places.nbytes + numbers.nbytes for places, numbers in self._parts.values())

    def put(self, addresses: Sequence[int], numbers: Any) -> None:
        """Set the numbers of pages, at ascending addresses."""
        for part, places, chosen in _by_part(addresses):
            new = numbers[chosen]
            if part not in self._parts:
                self._parts[part] = places, new.copy()
                continue
            old_places, old = self._parts[part]
            at = np.searchsorted(old_places, places)
            known = _matches(old_places, at, places)
            old[at[known]] = new[known]
            if not known.all():
                at, fresh = at[~known], ~known
                self._parts[part] = (
                    np.insert(old_places, at, places[fresh]),
                    np.insert(old, at, new[fresh]),
                )

    def differ(self, addresses: Sequence[int], numbers: Any) -> Any:
        """Tell for each page, at ascending addresses, whether its number is another or unknown."""
        result = np.ones(len(addresses), np.bool_)
        for part, places, chosen in _by_part(addresses):
            if part in self._parts:
                old_places, old = self._parts[part]
                at = np.searchsorted(old_places, places)
                known = _matches(old_places, at, places)
                same = old[at[known]] == numbers[chosen][known]
                result[chosen][known] = ~same
        return result

    def keep(self, spans: list[Span]) -> None:
        """Forget all pages but those in ``spans`` (as ``merged`` returns them)."""
        for part, (places, numbers) in list(self._parts.items()):
            kept = _inside(part, places, spans)
            if not kept.any():
                del self._parts[part]
            elif not kept.all():
                self._parts[part] = places[kept], numbers[kept]

    def find(self, spans: list[Span], wanted: Any) -> tuple[Any, Any]:
        """Return the addresses and numbers of the pages in ``spans`` that have a wanted number."""
        addresses, found = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        for part, (places, numbers) in self._parts.items():
            chosen = _inside(part, places, spans) & np.isin(numbers, wanted)
            addresses.append(_addresses(part, places[chosen]))
            found.append(numbers[chosen])
        return np.concatenate(addresses), np.concatenate(found)

    def move(self, start: int, end: int, to: int) -> None:
        """Give the pages from ``start`` to ``end`` other addresses, where there are none yet."""
        for part, (places, numbers) in list(self._parts.items()):
            chosen = _inside(part, places, [(start, end)])
            if chosen.any():
                self._parts[part] = places[~chosen], numbers[~chosen]
                addresses = _addresses(part, places[chosen]) - np.uint64(start) + np.uint64(to)
                self.put(addresses, numbers[chosen])


def _addresses(part: int, places: Any) -> Any:
    return (places.astype(np.uint64) + np.uint64(part * _PART)) * np.uint64(PAGE_SIZE)


def _inside(part: int, places: Any, spans: list[Span]) -> Any:
    """Tell which places of a part are in ``spans``."""
    base = part * _PART_BYTES
    inside = np.zeros(len(places), np.bool_)
    for start, end in clipped(spans, base, base + _PART_BYTES):
        bounds = [(start - base) // PAGE_SIZE, (end - base) // PAGE_SIZE]
        first, last = np.searchsorted(places, bounds)
        inside[first:last] = True
    return inside


def _by_part(addresses: Sequence[int]) -> Iterator[tuple[int, Any, slice]]:
    """Yield for each part its number, the places in it, and where in ``addresses`` these are."""
    pages = np.array(addresses, np.uint64) // PAGE_SIZE
    parts = pages // _PART
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(pages)]
    for first, last in pairwise(edges):
        if first < last:
            places = (pages[first:last] % _PART).astype(np.uint16)
            yield int(parts[first]), places, slice(first, last)


def _matches(known: Any, at: Any, wanted: Any) -> Any:
    """Tell which of ``wanted`` stand in ``known`` at the indices that searchsorted gave."""
    inside = at < len(known)
    inside[inside] = known[at[inside]] == wanted[inside]
    return inside
