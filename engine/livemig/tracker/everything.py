"""No tracker: every page that the process owns counts as written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from livemig.intervals import Span, subtract, total
from livemig.model import Mapping
from livemig.pagemap import Pagemap
from livemig.relocation import Relocation
from livemig.tracker.base import Deaf, Forgetful, Written


class Everything(Forgetful, Deaf):
    """Every page that the process owns counts as written, each time."""

    name = "none"

    def __init__(self, pagemap: Pagemap) -> None:
        self._pagemap = pagemap

    def written(
        self,
        mappings: Sequence[Mapping],
        held: list[Span],
        *,
        frozen: bool,  # noqa: ARG002
    ) -> Written:
        """Return every page that the process owns."""
        private = self._pagemap.private_pages(mappings)
        return Written(private, subtract(held, private))

    def relocations(self, *_: Any, **__: Any) -> list[Relocation]:
        """Know of no move: all is sent."""
        return []

    def peek(self, mappings: Sequence[Mapping], held: list[Span]) -> int:  # noqa: ARG002
        """Return the size of every page that the process owns."""
        return total(self._pagemap.private_pages(mappings))

    def close(self) -> None:
        """Nothing is watched."""
