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

    def elsewhere(
        self, held: list[Span], rooms: Sequence[Span], *, frozen: bool
    ) -> list[tuple[int, int]]:
        """Return where pages of ``held``, which are gone from there, may be now in ``rooms``.

        They are pairs of addresses, before and now, of some pages; none where nothing is known.
        """

    def moved(self, held: list[Span], moves: Sequence[Relocation]) -> None:
        """Take note that the target moves what it holds; ``written`` finds what is another."""

    def peek(self, mappings: Sequence[Mapping], held: list[Span]) -> int:
        """Return about how many bytes of pages ``written`` would return now."""

    def close(self) -> None:
        """Stop watching."""


class Forgetful:
    """A tracker that does not know what was sent, and so no page again that was moved."""

    def sent(self, addresses: Sequence[int], data: Any) -> None:
        """Keep nothing of it."""

    def elsewhere(self, *_: Any, **__: Any) -> list[tuple[int, int]]:
        """Know no page again."""
        return []

    def moved(self, held: list[Span], moves: Sequence[Relocation]) -> None:
        """Never happens: nothing was found elsewhere."""


def lacking(what: str, tracker: str) -> KernelLacks:
    """Return the error of a tracker that this kernel has not what it takes for."""
    return KernelLacks(
        f"this kernel ({os.uname().release}) lacks {what}, which the tracker {tracker} needs",
        hint="use --tracker auto, which takes what the kernel has, or --mode stop-and-copy",
    )
