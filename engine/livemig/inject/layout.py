"""The stub's back end of the layout interface: the held process changes its memory itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from livemig.inject.advice import add_advice
from livemig.inject.held import MAX_PASSED, Held
from livemig.layout import Change, Flags
from livemig.model import Kind, Mapping
from livemig.stub.table import Table
from livemig.system import handles
from livemig.system.numbers import NR_ARCH_PRCTL, NR_CLOSE, NR_MMAP, NR_MPROTECT, NR_MUNMAP

_ARCH_MAP_VDSO_64 = 0x2003
_MAP_PRIVATE, _MAP_DROPPABLE, _MAP_ANONYMOUS = 0x02, 0x08, 0x20
_MAP_GROWSDOWN, _MAP_NORESERVE = 0x100, 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
_BATCH = 800  # calls a table
_T = TypeVar("_T")


class StubLayout:
    """Maps, unmaps and protects through tables of the stub.

    ``root`` is a descriptor of the container's root directory; files are opened below it.
    """

    name = "stub"

    def __init__(self, held: Held, root: int) -> None:
        self._held = held
        self._root = root

    def apply(self, change: Change) -> None:
        """Carry out a change; raises OSError that names the step."""
        for part in _batches(change.unmapped):
            table = self._held.stub.table()
            for start, end in part:
                table.call(f"munmap {start:#x}-{end:#x}", NR_MUNMAP, start, end - start)
            self._held.stub.run(table)
        self._map_vdso(change.mapped)
        files: list[Mapping] = []
        plain: list[Mapping] = []
        for mapping in change.mapped:
            if mapping.kind is Kind.FILE:
                files.append(mapping)
            elif mapping.kind in (Kind.ANONYMOUS, Kind.STACK):
                plain.append(mapping)
        for batch in _batches(plain):
            table = self._held.stub.table()
            for mapping in batch:
                _add_map(table, mapping, _MAP_ANONYMOUS, -1)
            self._held.stub.run(table)
        self._map_files(files)
        for span in _batches(change.protected):
            table = self._held.stub.table()
            for start, end, prot in span:
                table.call(f"mprotect {start:#x}", NR_MPROTECT, start, end - start, prot)
            self._held.stub.run(table)
        new = [(each.start, each.end, (), each.flags) for each in change.mapped if each.flags]
        self._advise([*new, *change.advised])

    def _advise(self, changes: Sequence[tuple[int, int, Flags, Flags]]) -> None:
        for batch in _batches(changes, _BATCH // 10):
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
        paths = sorted({mapping.path for mapping in mappings})
        for some in _batches(paths, MAX_PASSED):
            opened: list[int] = []
            try:
                for path in some:
                    opened.append(handles.open_file_in_root(self._root, path, os.O_RDONLY))  # noqa: PERF401  one that fails, closes all
                table = self._held.stub.table()
                numbers = self._held.pass_descriptors(table, opened)
                place = dict(zip(some, numbers, strict=True))
                for mapping in mappings:
                    if mapping.path in place:
                        _add_map(table, mapping, 0, place[mapping.path])
                for number in numbers:
                    table.call(f"close {number}", NR_CLOSE, number)
                self._held.stub.run(table)
            finally:
                for descriptor in opened:
                    os.close(descriptor)


def _add_map(table: Table, mapping: Mapping, flags: int, descriptor: int) -> None:
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
    flags = _MAP_DROPPABLE if "dp" in mapping.flags else _MAP_PRIVATE
    if mapping.kind is Kind.STACK or "gd" in mapping.flags:
        flags |= _MAP_GROWSDOWN
    return flags | (_MAP_NORESERVE if "nr" in mapping.flags else 0)


def _batches(items: Sequence[_T], size: int = _BATCH) -> Iterable[Sequence[_T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
