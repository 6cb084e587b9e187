"""Memory layout: how one list of mappings becomes another, and who carries that out.

The target follows the source's layout from round to round. ``difference`` is computed alike on both
sides, so that the source knows which pages the target has lost.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from livemig.model import Kind, Mapping
from livemig.relocation import Relocation
from livemig.system.memory import PAGE_SIZE

Flags = tuple[str, ...]
LOWEST = 0x180_0000_0000
"""Holes are looked for from here on: programs, heaps, libraries and stacks are rarely there."""


@dataclass(frozen=True)
class Change:
    """The steps from one layout to another, in this order: unmap, map, protect, advise.

    ``unmapped`` are address ranges; their pages are lost. ``mapped`` are new mappings without
    pages, and with their flags; anonymous memory with an offset is what lies before it, grown: that
    was moved, and the kernel joins nothing else to it. ``protected`` are ranges that only change
    their protection, ``advised`` those that change their flags (from, to).
    """

    unmapped: tuple[tuple[int, int], ...]
    mapped: tuple[Mapping, ...]
    protected: tuple[tuple[int, int, int], ...]
    advised: tuple[tuple[int, int, Flags, Flags], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unmapped or self.mapped or self.protected or self.advised)


class LayoutBackend(Protocol):
    """Changes the layout of a held process.

    ``passed_over`` says why the device that this host has does not do it; empty where that one was
    not asked for, or there is none.
    """

    name: str
    passed_over: str

    def move(self, moves: Sequence[Relocation]) -> None:
        """Move memory with its pages (mremap(2)); raises OSError where the kernel refuses.

        What is mapped where it goes to is replaced. What is one move may be several mappings by
        now.
        """

    def apply(self, change: Change) -> None:
        """Carry out a change; raises OSError, naming the step, where the kernel refuses one."""

    def close(self) -> None:
        """Close what it holds open."""


def _overlaps(
    old: Sequence[Mapping], new: Sequence[Mapping]
) -> Iterator[tuple[Mapping, Mapping, int, int]]:
    left = right = 0
    while left < len(old) and right < len(new):
        before, after = old[left], new[right]
        start, end = max(before.start, after.start), min(before.end, after.end)
        if start < end and before.same_backing(after):
            yield before, after, start, end
        if before.end <= after.end:
            left += 1
        else:
            right += 1


def _without(mapping: Mapping, kept: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    place = mapping.start
    for start, end in kept:
        if place < start:
            yield place, start
        place = end
    if place < mapping.end:
        yield place, mapping.end


def settled(old: Sequence[Mapping], new: Sequence[Mapping]) -> tuple[Mapping, ...]:
    """Return ``new``, a layout as the source shows it, with the offsets of anonymous memory.

    A mapping is what it begins with in ``old``. So what was moved otherwise does not stay in it: it
    would be a mapping of its own there, and no mremap(2) reaches across two.
    """
    starts = [each.start for each in old]
    found = []
    for each in new:
        if each.kind is Kind.ANONYMOUS:
            at = bisect.bisect_right(starts, each.start) - 1
            before = old[at] if at >= 0 and each.start < old[at].end else None
            offset = before.offset if before is not None else 0
            if before is not None and offset:  # rarely: the application may stand still
                alike = before.same_backing(replace(each, offset=offset))
                offset = offset if alike else 0
            if offset != each.offset:
                each = replace(each, offset=offset)  # noqa: PLW2901
        found.append(each)
    return tuple(found)


def difference(
    old: Sequence[Mapping], new: Sequence[Mapping], replaced: Collection[str] = ()
) -> Change:
    """Return the steps from layout ``old`` to ``new``, both sorted and free of overlaps.

    What shows the same bytes before and after stays, with its pages. ``new`` has been ``settled``.
    Of the files ``replaced`` (paths) nothing stays: they are other ones now.
    """
    if old == new and not replaced:  # so it is mostly, and then the application may stand still
        return Change((), (), ())
    kept_old: dict[int, list[tuple[int, int]]] = {}
    kept_new: dict[int, list[tuple[int, int]]] = {}
    protected = []
    advised = []
    stays = {}
    for before, after, start, end in _overlaps(old, new):
        if before.kind is Kind.FILE and before.path in replaced:
            continue
        kept_old.setdefault(before.start, []).append((start, end))
        kept_new.setdefault(after.start, []).append((start, end))
        stays[end] = before
        if before.prot != after.prot:
            protected.append((start, end, after.prot))
        if before.flags != after.flags:
            advised.append((start, end, before.flags, after.flags))
    unmapped = [
        span for mapping in old for span in _without(mapping, kept_old.get(mapping.start, []))
    ]
    mapped = [
        mapping.part(start, end)
        for mapping in new
        for start, end in _without(mapping, kept_new.get(mapping.start, []))
    ]
    for each in mapped:
        if is_grown(each):  # it has what is before it
            before = stays[each.start]
            protected.append((each.start, each.end, each.prot))
            advised.append((each.start, each.end, before.flags, each.flags))
    return Change(tuple(unmapped), tuple(mapped), tuple(protected), tuple(advised))


def is_grown(mapping: Mapping) -> bool:
    """Tell whether new memory is to be what lies before it, grown."""
    return mapping.kind is Kind.ANONYMOUS and bool(mapping.offset)


def growth(mapping: Mapping) -> tuple[int, int]:
    """Return the page before memory that is to grow, and the size of both: mremap(2) of that page.

    A kernel grows what lies before as a whole, by its last page.
    """
    return mapping.start - PAGE_SIZE, PAGE_SIZE + mapping.length


def free_hole(taken: Sequence[tuple[int, int]], size: int, lowest: int) -> int:
    """Return the first address from ``lowest`` on where ``size`` bytes overlap nothing taken."""
    address = lowest
    for start, end in sorted(taken):
        if end <= address:
            continue
        if address + size <= start:
            break
        address = end
    return address
