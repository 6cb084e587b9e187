"""Write pages into the held process, straight to their final place."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from livemig.errors import ProtocolError
from livemig.inject.held import Held
from livemig.intervals import Span
from livemig.model import Kind, Mapping
from livemig.pages import BATCH_PAGES, Batch, PageKind, unpack
from livemig.system.memory import PAGE_SIZE, read_ranges, write_ranges
from livemig.system.procfs import PROT_WRITE

NR_MADVISE = 28
_MADV_DONTNEED = 4
_ZEROS = bytes(BATCH_PAGES * PAGE_SIZE)


class PageWriter:
    """Applies PAGES frames to a held process; addresses outside its layout are refused."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._mappings: Sequence[Mapping] = ()
        self._starts: list[int] = []
        self.pages = 0

    def follow(self, mappings: Sequence[Mapping]) -> None:
        """Take notice of the layout that the process has now."""
        self._mappings = mappings
        self._starts = [mapping.start for mapping in mappings]

    def _writable(self, address: int, length: int) -> bool:
        """Tell whether all of a run is writable; ProtocolError where it is not all mapped."""
        if address % PAGE_SIZE or length <= 0:
            raise ProtocolError(f"pages at {address:#x} are not on page boundaries")
        writable, place = True, address
        while place < address + length:
            index = bisect.bisect_right(self._starts, place) - 1
            mapping = self._mappings[index] if index >= 0 else None
            if mapping is None or mapping.end <= place or mapping.kind in (Kind.VVAR, Kind.VDSO):
                raise ProtocolError(f"pages at {place:#x}, where no memory is mapped")
            writable = writable and bool(mapping.prot & PROT_WRITE)
            place = mapping.end
        return writable

    def apply(self, batch: Batch, payload: bytes | memoryview) -> None:
        """Write the pages of one frame."""
        data = unpack(batch, payload)
        view = memoryview(data)
        place = 0
        direct: list[tuple[int, int]] = []
        first = 0
        for address, count, kind in batch.runs:
            length = count * PAGE_SIZE
            writable = self._writable(address, length)
            self.pages += count
            if kind is PageKind.WHOLE and writable:
                direct.append((address, length))
                place += length
                continue
            self._write(direct, view[first:place])
            direct = []
            if kind is PageKind.ZERO:
                self._write_run(address, memoryview(_ZEROS)[:length], writable)
            else:
                content: bytes | memoryview = view[place : place + length]
                if kind is PageKind.DELTA:
                    content = self._patched(address, view[place : place + length])
                self._write_run(address, content, writable)
                place += length
            first = place
        self._write(direct, view[first:place])

    def _patched(self, address: int, delta: memoryview) -> bytes:
        old = bytearray(len(delta))
        read_ranges(self._held.pid, [(address, len(delta))], old)
        return (np.frombuffer(old, np.uint64) ^ np.frombuffer(delta, np.uint64)).tobytes()

    def _write_run(self, address: int, content: bytes | memoryview, writable: bool) -> None:
        if writable:
            self._write([(address, len(content))], content)
        else:
            self._held.memory.write(address, content)

    def _write(self, ranges: list[tuple[int, int]], content: bytes | memoryview) -> None:
        if not ranges:
            return
        written = write_ranges(self._held.pid, ranges, content)
        if written != len(content):
            raise OSError(14, f"only {written} of {len(content)} bytes could be written")

    def drop(self, spans: Sequence[Span]) -> None:
        """Give up pages that the source does not have any more."""
        for first in range(0, len(spans), 500):
            table = self._held.stub.table()
            for start, end in spans[first : first + 500]:
                self._writable(start, end - start)
                table.call("madvise", NR_MADVISE, start, end - start, _MADV_DONTNEED)
            self._held.stub.run(table)
