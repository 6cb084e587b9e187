"""Where memory is that a process has moved (mremap(2)), by what the kernel told of each move.

What was told may be wrong in one way: where a mapping shrinks as it moves, kernels tell its length
before (mm/mremap.c up to 6.12), so memory may be said to have come where it did not. So what comes
to where memory is that was not seen to leave is memory of which nothing is known. Moves are told in
their order, for the process has one thread.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

from livemig.intervals import Span, clipped, merged, subtract, total
from livemig.model import Kind, Mapping
from livemig.relocation import MOST, Relocation

_PIECES = 4 * MOST  # that are told apart; beyond, all counts as unknown


class Travels:
    """What was moved since the layout that the target has.

    ``touched`` are the places that memory was moved from or to.
    """

    def __init__(self) -> None:
        self.begin([])

    def begin(self, mapped: list[Span]) -> None:
        """Begin anew: all is where it is, which is where memory is ``mapped``."""
        self.touched: list[Span] = []
        self._lost = False
        self._mapped = mapped
        self._come: list[Span] = []  # where memory is that was moved
        self._pieces: list[Relocation] = []  # that of it of which it is known where it was

    def lose(self) -> None:
        """Take note that anything may have been moved anywhere."""
        self.touched = self._come = [(0, 1 << 64)]
        self._pieces = []
        self._lost = True

    def note(self, start: int, length: int, to: int) -> None:
        """Take note of one move."""
        if self._lost:
            return
        left, place = [(start, start + length)], [(to, to + length)]
        stays = subtract(self._come, left)
        there = merged([*stays, *subtract(self._mapped, merged([*self.touched, *left]))])
        going = _cut(self._pieces, left)
        going += [(first, end, first) for first, end in subtract(left, self.touched)]
        going = [(first, end, now - start + to) for first, end, now in going]
        staying = _cut(self._pieces, subtract(stays, place))
        self._pieces = staying + _cut(going, subtract(place, there))
        self._come = merged([*stays, *place])
        self.touched = merged([*self.touched, *left, *place])
        if len(self._pieces) + len(self.touched) > _PIECES:
            self.lose()

    def relocations(
        self, old: Sequence[Mapping], new: Sequence[Mapping], held: list[Span]
    ) -> tuple[list[Relocation], list[Span]]:
        """Return what the target can move, in that order, and where the rest has come to.

        ``old`` is the layout that the target has, with the pages ``held``, and ``new`` what it will
        have. Of more than MOST moves those of most pages are chosen.
        """
        returned = [each for each in self._pieces if each[0] == each[2]]
        away = (each for each in self._pieces if each not in returned)
        movable = _cut(_cut(away, _anonymous(new)), _anonymous(old), before=True)
        wanted = [each for each in movable if clipped(held, *each[:2])]
        wanted.sort(key=lambda each: total(clipped(held, *each[:2])), reverse=True)
        moves = _ordered(wanted[:MOST])
        return moves, subtract(self._come, merged(map(_place, [*returned, *moves])))


def _place(move: Relocation) -> Span:
    start, end, now = move
    return now, now + end - start


def _anonymous(mappings: Iterable[Mapping]) -> list[Span]:
    """Return the spans of anonymous mappings. Not merged: a move is within one."""
    return [(each.start, each.end) for each in mappings if each.kind is Kind.ANONYMOUS]


def _cut(
    moves: Iterable[Relocation], spans: list[Span], *, before: bool = False
) -> list[Relocation]:
    """Return what of moves ends in ``spans``, or began there ``before``."""
    found = []
    ends = [end for _, end in spans]
    for start, end, now in moves:
        at = start if before else now
        for number in range(bisect.bisect_right(ends, at), len(spans)):
            low, high = max(spans[number][0], at), min(spans[number][1], at + end - start)
            if low >= high:
                break
            found.append((start + low - at, start + high - at, now + low - at))
    return found


def _ordered(wanted: list[Relocation]) -> list[Relocation]:
    """Return moves in an order in which none goes to where one is still to be made from.

    Where there is no such order, they are cut to what has one.
    """
    moves: list[Relocation] = []
    while wanted:
        left = merged((start, end) for start, end, _ in wanted)
        ready = [each for each in wanted if not clipped(left, *_place(each))]
        if not ready:
            parts = [_cut([each], subtract([_place(each)], left)) for each in wanted]
            return [*moves, *(part for each in parts for part in each)][:MOST]
        moves += ready
        wanted = [each for each in wanted if each not in ready]
    return moves
