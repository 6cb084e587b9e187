"""Memory layout: how one list of mappings becomes another, and who carries that out.

The target follows the source's layout from round to round. ``difference`` is computed alike on both
sides, so that the source knows which pages the target has lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from livemig.model import Mapping
from livemig.relocation import Relocation

Flags = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """The steps from one layout to another, in this order: unmap, map, protect, advise.

    ``unmapped`` are address ranges; their pages are lost. ``mapped`` are new mappings without
    pages, and with their flags. ``protected`` are ranges that only change their protection,
    ``advised`` those that change their flags (from, to).
    """

    unmapped: tuple[tuple[int, int], ...]
    mapped: tuple[Mapping, ...]
    protected: tuple[tuple[int, int, int], ...]
    advised: tuple[tuple[int, int, Flags, Flags], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unmapped or self.mapped or self.protected or self.advised)


class LayoutBackend(Protocol):
    """Changes the layout of a held process."""

    name: str

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


def difference(old: Sequence[Mapping], new: Sequence[Mapping]) -> Change:
    """Return the steps from layout ``old`` to ``new``, both sorted and free of overlaps.

    What shows the same bytes before and after stays, with its pages.
    """
    if old == new:  # so it is mostly, and then the application may stand still
        return Change((), (), ())
    kept_old: dict[int, list[tuple[int, int]]] = {}
    kept_new: dict[int, list[tuple[int, int]]] = {}
    protected = []
    advised = []
    for before, after, start, end in _overlaps(old, new):
        kept_old.setdefault(before.start, []).append((start, end))
        kept_new.setdefault(after.start, []).append((start, end))
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
    return Change(tuple(unmapped), tuple(mapped), tuple(protected), tuple(advised))


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
