"""Write pages into the held process, straight to their final place."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from livemig.errors import ProtocolError
from livemig.inject.held import Held
from livemig.intervals import Span
from livemig.model import Mapping
from livemig.pages import BATCH_PAGES, Batch, PageKind, unpack
from livemig.system.memory import PAGE_SIZE, read_ranges, write_ranges
from livemig.system.numbers import NR_MADVISE
from livemig.system.procfs import PROT_WRITE

_MADV_DONTNEED, _MADV_DONTNEED_LOCKED = 4, 24
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
            if mapping is None or mapping.end <= place or mapping.kind.is_kernels:
                raise ProtocolError(f"pages at {place:#x}, where no memory is mapped")
            writable = writable and bool(mapping.prot & PROT_WRITE)
            place = mapping.end
        return writable

    def apply(self, batch: Batch, payload: bytes | memoryview) -> None:
        """Write the pages of one frame; ProtocolError where it is not what PROTOCOL.md says."""
        data = memoryview(unpack(batch, payload))
        if [kind for _, _, kind in batch.runs] != sorted(kind for _, _, kind in batch.runs):
            raise ProtocolError("the runs of a PAGES frame are not in the order of their kinds")
        place = 0
        for kind in PageKind:
            runs = [(start, count * PAGE_SIZE) for start, count, each in batch.runs if each is kind]
            length = sum(size for _, size in runs)
            self.pages += length // PAGE_SIZE
            if kind is PageKind.ZERO:
                self._write_runs(runs, memoryview(_ZEROS)[:length])
                continue
            content = data[place : place + length]
            place += length
            self._write_runs(
                runs, self._patched(runs, content) if kind is PageKind.DELTA else content
            )

    def _patched(self, runs: list[tuple[int, int]], deltas: memoryview) -> memoryview:
        old = bytearray(len(deltas))
        if runs and self._read(runs, old) < len(old):
            raise ProtocolError(f"a delta for {runs[0][0]:#x} has no page to apply to")
        new = np.frombuffer(old, np.uint64) ^ np.frombuffer(deltas, np.uint64)
        return memoryview(new.tobytes())

    def _read(self, runs: list[tuple[int, int]], buffer: bytearray) -> int:
        if all(self._writable(address, length) for address, length in runs):
            return read_ranges(self._held.pid, runs, buffer)
        data = b"".join(self._held.memory.read(address, length) for address, length in runs)
        buffer[:] = data
        return len(data)

    def _write_runs(self, runs: list[tuple[int, int]], content: memoryview) -> None:
        """Write ``content`` over the runs, those that the process may not write to one by one."""
        direct: list[tuple[int, int]] = []
        place = first = 0
        for address, length in runs:
            if self._writable(address, length):
                direct.append((address, length))
            else:
                self._write(direct, content[first:place])
                self._held.memory.write(address, content[place : place + length])
                direct, first = [], place + length
            place += length
        self._write(direct, content[first:place])

    def _write(self, ranges: list[tuple[int, int]], content: memoryview) -> None:
        if not ranges:
            return
        written = write_ranges(self._held.pid, ranges, content)
        if written != len(content):
            raise OSError(14, f"only {written} of {len(content)} bytes could be written")

    def drop(self, spans: Sequence[Span]) -> None:
        """Give up pages that the source does not have any more."""
        locked = any("lo" in mapping.flags for mapping in self._mappings)
        advice = _MADV_DONTNEED_LOCKED if locked else _MADV_DONTNEED
        for first in range(0, len(spans), 500):
            table = self._held.stub.table()
            for start, end in spans[first : first + 500]:
                self._writable(start, end - start)
                table.call("madvise", NR_MADVISE, start, end - start, advice)
            self._held.stub.run(table)
