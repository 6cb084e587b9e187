"""Which pages were written since the last look: the one interface of all trackers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from livemig.errors import KernelLacks
from livemig.intervals import Span
from livemig.model import Mapping
from livemig.pagemap import Pagemap
from livemig.reading import read_pages
from livemig.relocation import Relocation
from livemig.system.memory import Memory

Pause = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Written:
    """What a round must tell the target: pages to send, and pages that the process gave up.

    Of ``pages`` that the target holds, those that read as zeros may have been given up too: who
    reads them has to ask ``Pagemap.owns``.
    """

    pages: list[Span]
    gone: list[Span]


@dataclass(frozen=True)
class Watched:
    """A process to be tracked. ``pause`` is a scope in which none of its threads runs."""

    memory: Memory
    pagemap: Pagemap
    pause: Pause

    @property
    def pid(self) -> int:
        """Its ID."""
        return self.memory.pid

    def read(
        self, spans: Sequence[Span], *, frozen: bool
    ) -> tuple[list[int], bytearray, list[Span]]:
        """Read pages; see ``read_pages``."""
        return read_pages(self.memory, spans, frozen=frozen, pagemap=self.pagemap.descriptor)


class Tracker(Protocol):
    """Reports written pages of one process, round by round."""

    name: str

    def written(self, mappings: Sequence[Mapping], held: list[Span], *, frozen: bool) -> Written:
        """Return what changed since the last call, and start to watch anew.

        ``held`` are the pages that the target holds. Of all others, those that the process owns
        are returned. With ``frozen`` the answer is exact, and nothing may have vanished meanwhile;
        without it what vanished is left for the next round.
        """

    def sent(self, addresses: Sequence[int], data: bytearray) -> None:
        """Take note of what the target holds from now on: pages, and their content in ``data``."""

    def heard(self) -> int:
        """Return a number that changes when memory is moved; always 0 where nobody tells that."""

    def relocations(
        self, old: Sequence[Mapping], new: Sequence[Mapping], held: list[Span], *, frozen: bool
    ) -> list[Relocation]:
        """Return what of ``held`` was moved, as far as that is known, in an order that works.

        ``old`` are the mappings that the target has, ``new`` those that it will have. What was
        moved until ``heard`` was called last is told once; it is told whether or not it is moved
        on the target then.
        """

    def misread(self, spans: list[Span], *, last: bool = False) -> list[Span]:
        """Return which pages may have been moved before they were read in this round.

        ``spans`` are those that have just been read. Of pages for which it cannot be told yet, it
        is by a later call, or by the ``last``; the process must run.
        """

    def moved(self, held: list[Span], moves: Sequence[Relocation]) -> None:
        """Take note that the target moves what it holds; ``written`` finds what is another."""

    def peek(self, mappings: Sequence[Mapping], held: list[Span]) -> int:
        """Return about how many bytes of pages ``written`` would return now."""

    def close(self) -> None:
        """Stop watching."""


class Deaf:
    """A tracker that nobody tells of moves.

    It looks at all that came to where other memory was: what is read is what is there.
    """

    def heard(self) -> int:
        """Hear nothing."""
        return 0

    def misread(self, spans: list[Span], *, last: bool = False) -> list[Span]:  # noqa: ARG002
        """Have no doubts."""
        return []


class Forgetful:
    """A tracker that does not know what was sent."""

    def sent(self, addresses: Sequence[int], data: Any) -> None:
        """Keep nothing of it."""

    def moved(self, held: list[Span], moves: Sequence[Relocation]) -> None:
        """Keep nothing of it either."""


def lacking(what: str, tracker: str) -> KernelLacks:
    """Return the error of a tracker that this kernel has not what it takes for."""
    return KernelLacks(
        f"this kernel ({os.uname().release}) lacks {what}, which the tracker {tracker} needs",
        hint="use --tracker auto, which takes what the kernel has, or --mode stop-and-copy",
    )
