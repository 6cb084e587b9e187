"""Memory that a process has moved between two rounds (mremap(2)), and its pages with it.

The target moves its own copy then, and gets no page of it again. What was moved where is a guess
of the source's: a page that is another than the target's is found by the tracker, and sent.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from livemig.errors import ProtocolError
from livemig.intervals import Span, clipped, intersect, merged, subtract
from livemig.model import Kind, Mapping
from livemig.system.memory import PAGE_SIZE

Relocation = tuple[int, int, int]
"""[start, end) is at a third address now."""

MOST = 100
"""Relocations of one LAYOUT frame at most."""
_WAYS = 8  # for each new mapping: it may be made of several that were moved


def relocate_spans(spans: list[Span], moves: Iterable[Relocation]) -> list[Span]:
    """Return where address ranges (as ``merged`` returns them) are afterwards."""
    stay, come = spans, []
    for start, end, to in moves:
        come += [(a + to - start, b + to - start) for a, b in clipped(spans, start, end)]
        stay = subtract(subtract(stay, [(start, end)]), [(to, to + end - start)])
    return merged([*stay, *come])


def relocate(mappings: Sequence[Mapping], moves: Sequence[Relocation]) -> tuple[Mapping, ...]:
    """Return a layout, by ascending address, after what was moved in it, one after the other.

    What is mapped where memory is moved to is replaced. ProtocolError where there are too many
    moves, or one that is not within one anonymous mapping that is there still, or ends where that
    is, where another ended, or where the stack or the vDSO is.
    """
    if len(moves) > MOST:
        raise ProtocolError(f"{len(moves)} moves in one layout, of {MOST} at most")
    found = sorted(mappings, key=lambda each: each.start)
    come: list[Mapping] = []
    for start, end, to in moves:
        at = bisect.bisect_right(found, start, key=lambda each: each.start) - 1
        whole = found[at] if at >= 0 else None
        if whole is None or not whole.start <= start < end <= whole.end:
            raise ProtocolError(f"the layout moves {start:#x}-{end:#x}, which is not one mapping")
        if whole.kind is not Kind.ANONYMOUS or (start | end | to) % PAGE_SIZE:
            raise ProtocolError(f"the layout moves {start:#x}-{end:#x}, which cannot be moved")
        moved = replace(whole, start=to, end=to + end - start, offset=whole.offset + to - start)
        _clear(found, start, end)
        if (to < end and start < moved.end) or any(_overlap(moved, each) for each in come):
            raise ProtocolError(f"the layout moves memory to {to:#x}, where some is moved")
        for each in _clear(found, moved.start, moved.end):
            if each.kind not in (Kind.ANONYMOUS, Kind.FILE):
                raise ProtocolError(f"the layout moves memory to {to:#x}, where {each.kind} is")
        come.append(moved)
    return tuple(sorted([*found, *come], key=lambda each: each.start))


def _overlap(one: Mapping, other: Mapping) -> bool:
    return one.start < other.end and other.start < one.end


def _clear(mappings: list[Mapping], start: int, end: int) -> list[Mapping]:
    """Take what lies there out of mappings, by ascending address; return those that lost some."""
    first = bisect.bisect_right(mappings, start, key=lambda each: each.end)
    last = bisect.bisect_left(mappings, end, key=lambda each: each.start)
    cut = mappings[first:last]
    parts = [(each.part(each.start, start), each.part(end, each.end)) for each in cut]
    mappings[first:last] = [part for both in parts for part in both if part.length > 0]
    return cut


def leavings(old: Sequence[Mapping], unmapped: Iterable[Span]) -> list[Span]:
    """Return of what is not mapped any more, each within one mapping, what may have been moved."""
    starts = [each.start for each in old]
    return [
        span
        for span in unmapped
        if old[bisect.bisect_right(starts, span[0]) - 1].kind is Kind.ANONYMOUS
    ]


def rooms(old: Sequence[Mapping], come: Iterable[Mapping]) -> list[Span]:
    """Return where memory may have been moved to: where anonymous memory is, and nothing was."""
    taken = merged((each.start, each.end) for each in old)
    new = sorted((each.start, each.end) for each in come if each.kind is Kind.ANONYMOUS)
    # Not merged: two that touch may have come from two places.
    return [part for span in new for part in subtract([span], taken)]


def guess(
    gone: list[Span], rooms: Sequence[Span], same: Sequence[tuple[int, int]]
) -> list[Relocation]:
    """Guess what of ``gone`` was moved where in ``rooms``.

    ``gone`` are ranges within one mapping each; ``same`` are pairs of an address in them that held
    a page, and one in ``rooms`` that shows the same content now.
    """
    moves: list[Relocation] = []
    pieces = sorted(gone)
    starts = [start for start, _ in pieces]
    left = {piece: [piece] for piece in pieces}
    pairs = sorted(same, key=lambda pair: pair[1])
    places = [now for _, now in pairs]
    for room in rooms:
        first, last = (bisect.bisect_left(places, place) for place in room)
        ways = Counter(
            (pieces[bisect.bisect_right(starts, before) - 1], now - before)
            for before, now in pairs[first:last]
        )
        empty = [room]
        for (piece, way), _ in ways.most_common(_WAYS):
            here = intersect(empty, [(start + way, end + way) for start, end in left[piece]])
            moves += [(start - way, end - way, start) for start, end in here]
            empty = subtract(empty, here)
            left[piece] = subtract(left[piece], [(start - way, end - way) for start, end in here])
        if len(moves) >= MOST:
            break
    return moves[:MOST]
