"""What the target holds, by hashes: tells which pages have other content than was last sent."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from livemig.intervals import Span, intersect, merged, total
from livemig.layout import difference, settled
from livemig.model import Kind, Mapping
from livemig.pages import batches
from livemig.relocation import Relocation, guess, leavings, rooms
from livemig.system.memory import PAGE_SIZE
from livemig.tracker.base import Deaf, Watched
from livemig.tracker.hashes import HashTable, PageHasher

_SAMPLE = 1024  # pages that are looked at to tell how many were written


class Sent:
    """Hashes of the pages of a process as they were last sent."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._hasher = PageHasher()
        self._hashes = HashTable()

    @property
    def size(self) -> int:
        """Bytes that the hashes take."""
        return self._hashes.size

    def note(self, addresses: Sequence[int], data: bytearray) -> None:
        """Remember pages, at ascending addresses, that were sent with the content ``data``."""
        self._hashes.put(addresses, self._hasher(data))

    def keep(self, held: list[Span]) -> None:
        """Forget all pages but those that the target still holds."""
        self._hashes.keep(held)

    def changed(self, spans: list[Span], *, frozen: bool) -> list[Span]:
        """Return the pages of ``spans`` that differ from what was sent, or are not there now."""
        changed: list[Span] = []
        for batch in batches(spans):
            addresses, data, gone = self._watched.read(batch, frozen=frozen)
            other = self._hashes.differ(addresses, self._hasher(data))
            changed += [_page(addresses[index]) for index in np.flatnonzero(other).tolist()]
            changed += gone
        return merged(changed)

    def elsewhere(
        self, held: list[Span], rooms: Sequence[Span], *, frozen: bool
    ) -> list[tuple[int, int]]:
        """Return where pages of ``held`` may be now: pairs of their address, and one in ``rooms``.

        Some pages of each room are looked at, and of what was sent what is there once.
        """
        own = self._watched.pagemap.private_pages
        most = max(_SAMPLE // len(rooms), 1)
        chosen = []
        for start, end in rooms:
            spans = own([Mapping(start, end, 0, Kind.ANONYMOUS)])
            pages = total(spans) // PAGE_SIZE
            numbers = range(0, pages, -(-pages // most) or 1)
            chosen += [_page(address) for address in _places(spans, numbers)]
        now: dict[int, int] = {}
        for batch in batches(chosen):
            addresses, data, _ = self._watched.read(batch, frozen=frozen)
            now |= zip(self._hasher(data).tolist(), addresses, strict=True)
        before, hashes = self._hashes.find(held, np.array(list(now), np.uint64))
        hashes, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        once = counts == 1
        pairs = zip(before[first[once]].tolist(), hashes[once].tolist(), strict=True)
        return [(address, now[number]) for address, number in pairs]

    def move(self, held: list[Span], moves: Sequence[Relocation]) -> None:
        """Take note of what the target has moved; of all others keep what it holds."""
        self._hashes.keep(held)
        for start, end, to in moves:
            self._hashes.move(start, end, to)

    def estimate(self, spans: list[Span]) -> int:
        """Return about how many bytes ``changed`` would return, by a sample of the pages."""
        pages = total(spans) // PAGE_SIZE
        numbers = sorted(random.sample(range(pages), min(_SAMPLE, pages)))
        sample = [_page(address) for address in _places(spans, numbers)]
        return total(self.changed(sample, frozen=False)) * pages // max(len(sample), 1)


class Knowing(Deaf):
    """A tracker that knows what was sent, and so knows a page again that was moved."""

    _sent: Sent

    def sent(self, addresses: Sequence[int], data: bytearray) -> None:
        """Keep the hashes of what was sent: not of what was found, since the process runs."""
        self._sent.note(addresses, data)

    def relocations(
        self, old: Sequence[Mapping], new: Sequence[Mapping], held: list[Span], *, frozen: bool
    ) -> list[Relocation]:
        """Guess what is gone in one place and there in another; see Tracker."""
        change = difference(old, settled(old, new))
        gone, to = leavings(old, change.unmapped), rooms(old, change.mapped)
        if not to or not (held := intersect(held, merged(gone))):
            return []
        return guess(gone, to, self._sent.elsewhere(held, to, frozen=frozen))

    def moved(self, held: list[Span], moves: Sequence[Relocation]) -> None:
        """Compare with them from now on where they are."""
        self._sent.move(held, moves)


def _page(address: int) -> Span:
    return address, address + PAGE_SIZE


def _places(spans: list[Span], numbers: Iterable[int]) -> Iterator[int]:
    """Yield the addresses of pages that are given by their ascending numbers in ``spans``."""
    before, wanted = 0, iter(numbers)
    number = next(wanted, None)
    for start, end in spans:
        pages = (end - start) // PAGE_SIZE
        while number is not None and number < before + pages:
            yield start + (number - before) * PAGE_SIZE
            number = next(wanted, None)
        before += pages
