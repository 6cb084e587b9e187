"""Sets of addresses as sorted lists of disjoint ranges."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator

Span = tuple[int, int]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return ``spans`` (start, end) sorted, with those that touch or overlap made one."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if result and start <= result[-1][1]:
            if end > result[-1][1]:
                result[-1] = (result[-1][0], end)
        else:
            result.append((start, end))
    return result


def subtract(left: list[Span], right: list[Span]) -> list[Span]:
    """Return what of ``left`` is not in ``right``; both as ``merged`` returns them."""
    return list(_subtract(left, right))


def _subtract(left: list[Span], right: list[Span]) -> Iterator[Span]:
    place = 0
    for start, end in left:
        while place < len(right) and right[place][1] <= start:
            place += 1
        at, begin = place, start
        while at < len(right) and right[at][0] < end:
            if begin < right[at][0]:
                yield begin, right[at][0]
            begin = max(begin, right[at][1])
            at += 1
        if begin < end:
            yield begin, end


def intersect(left: list[Span], right: list[Span]) -> list[Span]:
    """Return what is in both; both as ``merged`` returns them."""
    return subtract(left, subtract(left, right))


def _end(span: Span) -> int:
    return span[1]


def clipped(spans: list[Span], start: int, end: int) -> list[Span]:
    """Return what of ``spans``, as ``merged`` returns them, lies in one range; fast in many."""
    found: list[Span] = []
    first = bisect.bisect_right(spans, start, key=_end)
    for begin, stop in itertools.islice(spans, first, None):
        if max(begin, start) >= end:
            break
        found.append((max(begin, start), min(stop, end)))
    return found


def total(spans: Iterable[Span]) -> int:
    """Return the sum of the lengths."""
    return sum(end - start for start, end in spans)
