"""Iterative dumping: the memory of a running process, round by round, to a target that follows.

The ledger knows which pages the target holds. It follows the layout by the same ``difference`` that
the target carries out, so that both agree on what a change of layout costs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from livemig.errors import InternalError
from livemig.extract import mapped_files, read_layout
from livemig.extract.breakpoints import refuse_breakpoints
from livemig.extract.properties import Properties
from livemig.extract.residence import read_residence
from livemig.frames import FrameType
from livemig.intervals import Span, intersect, merged, subtract
from livemig.layout import difference, settled
from livemig.model import Kind, Layout, MappedFile, Mapping, Residence, RoundStat, VdsoImage
from livemig.pagemap import carried
from livemig.pages import DeltaCache, Packer, batches, zero_pages
from livemig.relocation import Relocation, relocate, relocate_spans
from livemig.system.memory import PAGE_SIZE
from livemig.tracker import Tracker, Watched
from livemig.vdso import MAX_IMAGE
from livemig.wire import to_wire

Send = Callable[[FrameType, Any, Any], None]
_SPANS = 1 << 18  # in one ROUND_END, each of them three items of MAX_ITEMS
_LOOKS = 100
_CALM_LOOKS = 5
_Identity = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class _Known:
    """A mapped file as the target has it."""

    identity: _Identity
    size: int


@dataclass(frozen=True)
class LayoutUpdate:
    """The body of a LAYOUT frame: the layout as it is now, and the files that are new in it.

    ``residence`` tells how its pages lie in memory, where that is known. ``moves`` is memory of the
    layout before, which is at other addresses in this one. ``vdsos`` are the code of the vDSO, and
    of copies of others, that were not in the layout before.
    """

    layout: Layout
    files: tuple[MappedFile, ...]
    residence: Residence = field(default_factory=Residence)
    moves: tuple[Relocation, ...] = ()
    vdsos: tuple[VdsoImage, ...] = ()


@dataclass(frozen=True)
class RoundEnd:
    """The body of a ROUND_END frame: its number, and the pages that the target must give up.

    ``more``: another one follows with more of them, before the round is answered.
    """

    number: int
    pid: int
    dropped: tuple[Span, ...] = ()
    more: bool = False


class MemorySource:
    """Sends one process's memory through ``send`` (frame type, body, payload)."""

    def __init__(self, watched: Watched, container_pid: int, tracker: Tracker, cache: int) -> None:
        self._watched = watched
        self._container_pid = container_pid
        self._tracker = tracker
        self._cache = DeltaCache(cache)
        self._layout = Layout(container_pid, ())
        self._files: dict[str, _Known] = {}
        self.properties = Properties(watched.pid)
        self._ledger: list[Span] = []
        self.number = 0

    def follow(self, watched: Watched, tracker: Tracker) -> None:
        """Go on with another tracker, or with the memory that an executed program has."""
        self._watched, self._tracker = watched, tracker

    def clear(self, send: Send) -> None:
        """Let the target give up all that it holds."""
        self._layout = Layout(self._container_pid, ())
        self._ledger = []
        send(FrameType.LAYOUT, to_wire(LayoutUpdate(self._layout, ())), b"")

    def forget_files(self, paths: Iterable[str]) -> None:
        """Take note that the target has got these files anew: what it mapped may be another file.

        Whoever writes to a file there empties it first, and its private pages go with it.
        """
        for path in paths:
            self._files.pop(path, None)

    def held(self) -> list[Span]:
        """Return the address ranges whose pages the target holds."""
        return list(self._ledger)

    def unheld(self) -> list[Span]:
        """Return the address ranges of mappings whose pages the target does not hold."""
        mappings = self._layout.mappings
        shown = [*carried(mappings), *(each for each in mappings if each.is_shared)]
        return subtract(merged((each.start, each.end) for each in shown), self._ledger)

    def refuse_breakpoints(self) -> None:
        """Raise NotCarried where the code that the target holds has breakpoints of others."""
        refuse_breakpoints(self._watched.memory, self._layout.mappings, self._ledger)

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
        spans = found.pages if frozen else subtract(found.pages, self._beyond())
        self._ledger = subtract(self._ledger, found.gone)
        repeated = intersect(spans, self._ledger)
        new = subtract(spans, repeated)
        self._cache.drop(new)  # what the target held there, it has given up since
        gone = list(found.gone)
        for part, again in ((repeated, True), (new, False)):
            for batch in batches(part):
                gone += self._send_batch(send, packer, batch, again, frozen)
        if not frozen:
            gone += self._tracker.misread([], last=True)
        gone = merged(gone)
        self._ledger = subtract(merged([*self._ledger, *spans]), gone)
        self._send_end(send, gone)
        counts = packer.counts
        millis = (time.monotonic() - started) * 1000
        kinds = (counts.zero, counts.delta, counts.whole)
        return RoundStat(self.number, counts.pages, *kinds, counts.payload, millis)

    def _send_end(self, send: Send, gone: list[Span]) -> None:
        for begin in range(0, max(len(gone), 1), _SPANS):
            part, more = gone[begin : begin + _SPANS], begin + _SPANS < len(gone)
            end = RoundEnd(self.number, self._container_pid, tuple(part), more)
            send(FrameType.ROUND_END, to_wire(end), b"")

    def _send_layout(self, send: Send, frozen: bool) -> None:
        layout, files = self._read_layout(frozen)
        moves = self._follow_moves(layout, frozen)
        mappings = settled(self._layout.mappings, layout.mappings)
        change = difference(self._layout.mappings, mappings, {file.path for file in files})
        if not change and not files and not moves and self.number > 1:
            return
        self._ledger = subtract(self._ledger, merged(change.unmapped))
        self._layout = replace(layout, mappings=mappings)
        residence = self._residence(layout) if self.number == 1 else Residence()
        vdsos = self._vdsos(change.mapped)
        update = LayoutUpdate(layout, tuple(files), residence, tuple(moves), vdsos)
        send(FrameType.LAYOUT, to_wire(update), b"")

    def _follow_moves(self, layout: Layout, frozen: bool) -> list[Relocation]:
        """Return what the process has moved, and count what the target held as moved."""
        old, new = self._layout.mappings, layout.mappings
        if moves := self._tracker.relocations(old, new, self._ledger, frozen=frozen):
            self._layout = replace(self._layout, mappings=relocate(old, moves))
            self._tracker.moved(self._ledger, moves)
            self._ledger = relocate_spans(self._ledger, moves)
            self._cache.drop(merged((to, to + end - start) for start, end, to in moves))
        return moves

    def _vdsos(self, mapped: Iterable[Mapping]) -> tuple[VdsoImage, ...]:
        read = self._watched.memory.read
        return tuple(
            VdsoImage(each.start, read(each.start, min(each.length, MAX_IMAGE)))
            for each in mapped
            if each.kind.has_entries
        )

    def _residence(self, layout: Layout) -> Residence:
        pagemap = self._watched.pagemap.descriptor
        return read_residence(pagemap, layout.mappings, self.properties.huge)

    def _read_layout(self, frozen: bool) -> tuple[Layout, list[MappedFile]]:
        """Return the layout, and the files in it that the target does not know.

        Once it is ``frozen``, the target has got what was changed: it knows those no more either,
        and maps them anew.
        """
        pid = self._watched.pid
        for look in range(_LOOKS):
            heard = self._tracker.heard()
            layout = read_layout(pid, self._container_pid, self.properties, frozen=frozen)
            if self._tracker.heard() != heard and look < _CALM_LOOKS:
                continue  # what was moved meanwhile would be sent again
            with suppress(FileNotFoundError):  # unmapped since the layout was read
                new = {
                    mapping.path: (mapping, identity)
                    for mapping in layout.mappings
                    if mapping.kind is Kind.FILE and (frozen or mapping.path not in self._files)
                    if not self._knows(mapping, identity := _identity(pid, mapping))
                }
                files = mapped_files(pid, [mapping for mapping, _ in new.values()])
                for file in files:
                    self._files[file.path] = _Known(new[file.path][1], file.size)
                return layout, files
        raise InternalError(f"process {pid} changes its memory too fast to be looked at")

    def _knows(self, mapping: Mapping, identity: _Identity) -> bool:
        known = self._files.get(mapping.path)
        return known is not None and known.identity == identity

    def _beyond(self) -> list[Span]:
        """Return what lies beyond the end of mapped files as the target has them so far."""
        spans: list[Span] = []
        for mapping in self._layout.mappings:
            if mapping.kind is Kind.FILE:
                pages = -(-self._files[mapping.path].size // PAGE_SIZE)
                end = mapping.start + pages * PAGE_SIZE - mapping.offset
                spans.append((max(mapping.start, end), mapping.end))
        return merged(spans)

    def _send_batch(
        self, send: Send, packer: Packer, spans: list[Span], again: bool, frozen: bool
    ) -> list[Span]:
        """Send some pages; return those that the target must give up instead."""
        addresses, data, gone = self._watched.read(spans, frozen=frozen)
        if not frozen:
            gone += self._tracker.misread(spans)
        if again and (empty := self._given_up(addresses, data)):
            gone += empty
            addresses, data = _without(addresses, data, {start for start, _ in empty})
        if addresses:
            batch, payload = packer.pack(addresses, data, again)
            send(FrameType.PAGES, to_wire(batch), payload)
            self._tracker.sent(addresses, data)
        return gone

    def _given_up(self, addresses: list[int], data: bytearray) -> list[Span]:
        """Return the pages that the target holds and the process does not: they read as zeros."""
        return [
            (addresses[index], addresses[index] + PAGE_SIZE)
            for index in zero_pages(data)
            if not self._watched.pagemap.owns(addresses[index])
        ]


def _identity(pid: int, mapping: Mapping) -> _Identity:
    """Return what changes whenever the mapped file does."""
    found = os.stat(f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _without(
    addresses: list[int], data: bytearray, left_out: set[int]
) -> tuple[list[int], bytearray]:
    kept = [index for index, address in enumerate(addresses) if address not in left_out]
    pages = (data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE] for index in kept)
    return [addresses[index] for index in kept], bytearray(b"".join(pages))
