"""Iterative dumping: the memory of a running process, round by round, to a target that follows.

The ledger knows which pages the target holds. It follows the layout by the same ``difference`` that
the target carries out, so that both agree on what a change of layout costs.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from livemig.errors import InternalError, ProcessGone
from livemig.extract import mapped_files, read_layout
from livemig.extract.guards import is_guarded
from livemig.extract.properties import Properties
from livemig.extract.residence import read_residence
from livemig.frames import FrameType
from livemig.intervals import Span, intersect, merged, subtract, total
from livemig.layout import difference
from livemig.model import Layout, MappedFile, Residence, RoundStat
from livemig.pagemap import Pagemap, carried
from livemig.pages import DeltaCache, Packer, batches, zero_pages
from livemig.system.memory import PAGE_SIZE, Memory, read_ranges
from livemig.tracker import Tracker
from livemig.wire import to_wire

Send = Callable[[FrameType, Any, Any], None]
_LOOKS = 100


@dataclass(frozen=True)
class LayoutUpdate:
    """The body of a LAYOUT frame: the layout as it is now, and the files that are new in it.

    ``residence`` tells how its pages lie in memory, where that is known.
    """

    layout: Layout
    files: tuple[MappedFile, ...]
    residence: Residence = field(default_factory=Residence)


@dataclass(frozen=True)
class RoundEnd:
    """The body of a ROUND_END frame: its number, and the pages that the target must give up."""

    number: int
    pid: int
    dropped: tuple[Span, ...] = ()


class MemorySource:
    """Sends one process's memory through ``send`` (frame type, body, payload)."""

    def __init__(
        self, memory: Memory, container_pid: int, tracker: Tracker, pagemap: Pagemap, cache: int
    ) -> None:
        self._memory = memory
        self._pid = memory.pid
        self._container_pid = container_pid
        self._tracker = tracker
        self._pagemap = pagemap
        self._cache = DeltaCache(cache)
        self._layout = Layout(container_pid, ())
        self._files: set[str] = set()
        self.properties = Properties(self._pid)
        self._ledger: list[Span] = []
        self.number = 0

    def held(self) -> list[Span]:
        """Return the address ranges whose pages the target holds."""
        return list(self._ledger)

    def unheld(self) -> list[Span]:
        """Return the address ranges of mappings whose pages the target does not hold."""
        mappings = carried(self._layout.mappings)
        return subtract(merged((each.start, each.end) for each in mappings), self._ledger)

    def waiting(self) -> int:
        """Return the bytes of pages that the next round would find written."""
        return self._tracker.peek(self._layout.mappings, self._ledger)

    def round(self, send: Send, *, frozen: bool = False) -> RoundStat:
        """Send what was written since the last round, all of it in the first.

        With ``frozen`` the round is exact: what the process holds afterwards is what the target
        holds.
        """
        started = time.monotonic()
        self.number += 1
        packer = Packer(self._container_pid, self._cache)
        self._send_layout(send, frozen)
        found = self._tracker.written(self._layout.mappings, self._ledger, frozen=frozen)
        spans = found.pages
        self._ledger = subtract(self._ledger, found.gone)
        repeated = intersect(spans, self._ledger)
        new = subtract(spans, repeated)
        self._cache.drop(new)  # what the target held there, it has given up since
        gone = list(found.gone)
        for part, again in ((repeated, True), (new, False)):
            for batch in batches(part):
                gone += self._send_batch(send, packer, batch, again, frozen)
        self._ledger = subtract(merged([*self._ledger, *spans]), merged(gone))
        end = RoundEnd(self.number, self._container_pid, tuple(gone))
        send(FrameType.ROUND_END, to_wire(end), b"")
        counts = packer.counts
        millis = (time.monotonic() - started) * 1000
        kinds = (counts.zero, counts.delta, counts.whole)
        return RoundStat(self.number, counts.pages, *kinds, counts.payload, millis)

    def _send_layout(self, send: Send, frozen: bool) -> None:
        layout, files = self._read_layout(frozen)
        change = difference(self._layout.mappings, layout.mappings)
        if not change and self.number > 1:
            return
        lost = merged(change.unmapped)
        self._ledger = subtract(self._ledger, lost)
        self._files.update(file.path for file in files)
        self._layout = layout
        residence = self._residence(layout) if self.number == 1 else Residence()
        send(FrameType.LAYOUT, to_wire(LayoutUpdate(layout, tuple(files), residence)), b"")

    def _residence(self, layout: Layout) -> Residence:
        return read_residence(self._pagemap.descriptor, layout.mappings, self.properties.huge)

    def _read_layout(self, frozen: bool) -> tuple[Layout, list[MappedFile]]:
        """Return the layout, and the files in it that the target does not know."""
        for _ in range(_LOOKS):
            layout = read_layout(self._pid, self._container_pid, self.properties, frozen=frozen)
            new = [mapping for mapping in layout.mappings if mapping.path not in self._files]
            with suppress(FileNotFoundError):  # unmapped since the layout was read
                return layout, mapped_files(self._pid, new)
        raise InternalError(f"process {self._pid} changes its memory too fast to be looked at")

    def _send_batch(
        self, send: Send, packer: Packer, spans: list[Span], again: bool, frozen: bool
    ) -> list[Span]:
        """Send some pages; return those that the target must give up instead."""
        data = bytearray(total(spans))
        addresses = [address for span in spans for address in range(*span, PAGE_SIZE)]
        gone: list[Span] = []
        if self._read(spans, data) < len(data):
            addresses, data, gone = self._read_slowly(addresses, frozen)
        if again and (empty := self._given_up(addresses, data)):
            gone += empty
            addresses, data = _without(addresses, data, {start for start, _ in empty})
        if addresses:
            batch, payload = packer.pack(addresses, data, again)
            send(FrameType.PAGES, to_wire(batch), payload)
        return gone

    def _given_up(self, addresses: list[int], data: bytearray) -> list[Span]:
        """Return the pages that the target holds and the process does not: they read as zeros."""
        return [
            (addresses[index], addresses[index] + PAGE_SIZE)
            for index in zero_pages(data)
            if not self._pagemap.owns(addresses[index])
        ]

    def _read(self, spans: list[Span], data: bytearray) -> int:
        try:
            return read_ranges(self._pid, [(start, end - start) for start, end in spans], data)
        except ProcessLookupError as error:
            raise ProcessGone(f"process {self._pid} ended while it was read") from error
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            return 0

    def _read_slowly(
        self, addresses: list[int], frozen: bool
    ) -> tuple[list[int], bytearray, list[Span]]:
        """Read page by page; what vanished meanwhile is left to the next round unless frozen."""
        found, data, gone = [], bytearray(), []
        for address in addresses:
            try:
                data += self._memory.read(address, PAGE_SIZE)
            except OSError:
                if frozen and not is_guarded(self._pagemap.descriptor, address):
                    raise
                gone.append((address, address + PAGE_SIZE))
                continue
            found.append(address)
        return found, data, gone


def _without(
    addresses: list[int], data: bytearray, left_out: set[int]
) -> tuple[list[int], bytearray]:
    kept = [index for index, address in enumerate(addresses) if address not in left_out]
    pages = (data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE] for index in kept)
    return [addresses[index] for index in kept], bytearray(b"".join(pages))
