"""Written pages by comparison with hashes of what was last sent: on every kernel.

Each round reads all of the memory, the frozen one too: so the downtime grows with the memory. The
process is neither stopped nor slowed in its writes meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from livemig.infect import Loan
from livemig.intervals import Span, intersect, merged, subtract, total
from livemig.model import COMPARISON, Mapping
from livemig.tracker.base import Watched, Written
from livemig.tracker.sent import Knowing, Sent


class Comparison(Knowing):
    """Hashes of the pages that the target holds."""

    name = COMPARISON

    def __init__(self, watched: Watched) -> None:
        self._pagemap = watched.pagemap
        self._sent = Sent(watched)

    @classmethod
    def plant(cls, _: Loan, watched: Watched) -> Comparison:
        """Begin to compare, for which nothing has to be done in the process."""
        return cls(watched)

    @classmethod
    def probe(cls) -> None:
        """Have nothing to try: every kernel shows what a process's memory holds."""

    def written(self, mappings: Sequence[Mapping], held: list[Span], *, frozen: bool) -> Written:
        """Return what differs from what was last sent; see Tracker."""
        own = self._pagemap.private_pages(mappings)
        self._sent.keep(held)
        changed = self._sent.changed(intersect(own, held), frozen=frozen)
        return Written(merged([*subtract(own, held), *changed]), subtract(held, own))

    def peek(self, mappings: Sequence[Mapping], held: list[Span]) -> int:
        """Return about how many bytes were written, by a sample of the pages."""
        own = self._pagemap.private_pages(mappings)
        return total(subtract(own, held)) + self._sent.estimate(intersect(own, held))

    def close(self) -> None:
        """Nothing is watched."""
