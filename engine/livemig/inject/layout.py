"""The stub's back end of the layout interface: the held process changes its memory itself."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from livemig.extract.files import MAX_PASSED
from livemig.inject.advice import add_advice
from livemig.inject.droppable import MAP_DROPPABLE
from livemig.inject.held import Held
from livemig.layout import Change, Flags, growth, is_grown
from livemig.model import STUB, Kind, Mapping
from livemig.relocation import Relocation
from livemig.stub.table import Table
from livemig.system import handles, procfs
from livemig.system.memory import PAGE_SIZE
from livemig.system.numbers import (
    NR_ARCH_PRCTL,
    NR_CLOSE,
    NR_MMAP,
    NR_MPROTECT,
    NR_MREMAP,
    NR_MUNMAP,
)

_ARCH_MAP_VDSO_64 = 0x2003
_MAP_SHARED, _MAP_PRIVATE, _MAP_ANONYMOUS = 0x01, 0x02, 0x20
_MAP_GROWSDOWN, _MAP_NORESERVE = 0x100, 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
_MREMAP_FIXED = 1 | 2  # MREMAP_MAYMOVE | MREMAP_FIXED
_PLAIN = (Kind.ANONYMOUS, Kind.STACK, Kind.FOREIGN)
_BATCH = 800  # calls a table
_T = TypeVar("_T")


class StubLayout:
    """Maps, unmaps and protects through tables of the stub.

    ``root`` is a descriptor of the container's root directory; files are opened below it.
    """

    name = STUB

    def __init__(self, held: Held, root: int, *, passed_over: str = "") -> None:
        self.passed_over = passed_over
        self._held = held
        self._root = root

    def move(self, moves: Sequence[Relocation]) -> None:
        """Move memory with its pages; raises OSError that names the step."""
        for part in batches(within_areas(self._held.pid, moves)):
            table = self._held.stub.table()
            for start, end, to in part:
                size = end - start
                name = f"mremap {start:#x}-{end:#x} to {to:#x}"
                table.call(name, NR_MREMAP, start, size, size, _MREMAP_FIXED, to)
            self._held.stub.run(table)

    def apply(self, change: Change) -> None:
        """Carry out a change; raises OSError that names the step."""
        for part in batches(change.unmapped):
            table = self._held.stub.table()
            for start, end in part:
                table.call(f"munmap {start:#x}-{end:#x}", NR_MUNMAP, start, end - start)
            self._held.stub.run(table)
        self._map_vdso(change.mapped)
        files = [each for each in change.mapped if each.kind is Kind.FILE]
        plain = [each for each in change.mapped if each.kind in _PLAIN]
        for batch in batches(plain):
            table = self._held.stub.table()
            for mapping in batch:
                _add_map(table, mapping, _MAP_ANONYMOUS, -1)
            self._held.stub.run(table)
        self._map_files(files)
        for span in batches(change.protected):
            table = self._held.stub.table()
            for start, end, prot in span:
                table.call(f"mprotect {start:#x}", NR_MPROTECT, start, end - start, prot)
            self._held.stub.run(table)
        new = fresh_flags(change.mapped)
        self._advise([*new, *change.advised])

    def close(self) -> None:
        """Nothing is open between two changes."""

    def _advise(self, changes: Sequence[tuple[int, int, Flags, Flags]]) -> None:
        for batch in batches(changes, _BATCH // 10):
            table = self._held.stub.table()
            for start, end, before, after in batch:
                add_advice(table, (start, end), before, after)
            self._held.stub.run(table)

    def _map_vdso(self, mapped: Iterable[Mapping]) -> None:
        kernel = [mapping for mapping in mapped if mapping.kind in (Kind.VVAR, Kind.VDSO)]
        if kernel:
            table = self._held.stub.table()
            first = min(mapping.start for mapping in kernel)
            table.call(f"mapping the vDSO at {first:#x}", NR_ARCH_PRCTL, _ARCH_MAP_VDSO_64, first)
            self._held.stub.run(table)

    def _map_files(self, mappings: list[Mapping]) -> None:
        for some in by_files(mappings):
            with opened_files(self._root, some) as opened:
                table = self._held.stub.table()
                numbers = self._held.pass_descriptors(table, list(opened.values()))
                place = dict(zip(opened, numbers, strict=True))
                for mapping in some:
                    _add_map(table, mapping, 0, place[mapping.path])
                for number in numbers:
                    table.call(f"close {number}", NR_CLOSE, number)
                self._held.stub.run(table)


def fresh_flags(mapped: Iterable[Mapping]) -> list[tuple[int, int, Flags, Flags]]:
    """Return what has to be advised of new mappings; what has grown, has flags already."""
    return [
        (each.start, each.end, (), each.flags)
        for each in mapped
        if each.flags and not is_grown(each)
    ]


def _add_map(table: Table, mapping: Mapping, flags: int, descriptor: int) -> None:
    if is_grown(mapping):
        last, size = growth(mapping)
        name = f"growing memory at {mapping.start:#x} to {mapping.end:#x}"
        table.call(name, NR_MREMAP, last, PAGE_SIZE, size, 0)
        return
    table.call(
        f"mmap {mapping.start:#x}-{mapping.end:#x} {mapping.path}",
        NR_MMAP,
        mapping.start,
        mapping.length,
        mapping.prot,
        flags | _map_flags(mapping) | _MAP_FIXED_NOREPLACE,
        descriptor,
        mapping.offset,
    )


def _map_flags(mapping: Mapping) -> int:
    """Return the flags of mmap(2) that nothing gives later."""
    if mapping.is_shared:
        flags = _MAP_SHARED
    else:
        flags = MAP_DROPPABLE if "dp" in mapping.flags else _MAP_PRIVATE
    if mapping.kind is Kind.STACK or "gd" in mapping.flags:
        flags |= _MAP_GROWSDOWN
    return flags | (_MAP_NORESERVE if "nr" in mapping.flags else 0)


def within_areas(pid: int, moves: Iterable[Relocation]) -> list[Relocation]:
    """Cut moves where the process's mappings end: the kernel moves one at a time."""
    areas = [(area.start, area.end) for area in procfs.read_areas(pid)] if moves else []
    starts = [start for start, _ in areas]
    found = []
    for start, end, to in moves:
        for area in areas[bisect.bisect_right(starts, start) - 1 :]:
            if area[0] >= end:
                break
            first, last = max(start, area[0]), min(end, area[1])
            if first < last:
                found.append((first, last, to + first - start))
    return found


def by_files(mappings: Iterable[Mapping]) -> Iterator[list[Mapping]]:
    """Yield mappings of files, those of at most MAX_PASSED files at a time."""
    found: dict[str, list[Mapping]] = {}
    for mapping in mappings:
        found.setdefault(mapping.path, []).append(mapping)
    for some in batches(sorted(found), MAX_PASSED):
        yield [mapping for path in some for mapping in found[path]]


@contextmanager
def opened_files(root: int, mappings: Iterable[Mapping]) -> Iterator[dict[str, int]]:
    """Open the files behind mappings below the directory ``root``: descriptors by path."""
    with ExitStack() as close:
        opened: dict[str, int] = {}
        for path in sorted({mapping.path for mapping in mappings}):
            opened[path] = handles.open_file_in_root(root, path, os.O_RDONLY)
            close.callback(os.close, opened[path])
        yield opened


def batches(items: Sequence[_T], size: int = _BATCH) -> Iterable[Sequence[_T]]:
    """Return the items in their order, at most ``size`` at a time."""
    return (items[first : first + size] for first in range(0, len(items), size))
