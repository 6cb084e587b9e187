"""The device's back end of the layout interface: memory is changed from outside, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from livemig.inject.held import Held
from livemig.inject.layout import StubLayout, by_files, fresh_flags, opened_files, within_areas
from livemig.layout import Change, free_hole, growth, is_grown
from livemig.model import DEVICE, Kind, Mapping
from livemig.relocation import Relocation
from livemig.system import procfs
from livemig.system.device import Device, Do, Flag, Operation
from livemig.system.memory import PAGE_SIZE

_NEEDED = (Do.MOVE, Do.MAP, Do.MAP_FILE, Do.UNMAP)
# Put together faster.
_GROWSDOWN, _NORESERVE, _SHARED = map(int, (Flag.GROWSDOWN, Flag.NORESERVE, Flag.SHARED))


class DeviceLayout:
    """Maps, moves and unmaps through /dev/livemig; the held process runs nothing for that.

    The stub does what the device knows no operation for: protection (mprotect), advice and locks
    (madvise, mlock), the vDSO (the held process has none that could be moved: ARCH_MAP_VDSO_64
    makes it one), and droppable memory (MAP_DROPPABLE).

    ``root`` is as StubLayout has it. OSError where the device is none, lacks an operation, or does
    not take the held process, which must be stopped by the calling thread.
    """

    name = DEVICE
    passed_over = ""

    def __init__(self, held: Held, root: int) -> None:
        self._held = held
        self._root = root
        self._stub = StubLayout(held, root)
        self._device = open_device()
        try:
            self._try()
        except OSError:
            self._device.close()
            raise

    def _try(self) -> None:
        """Do what changes nothing: unmap where nothing is mapped."""
        taken = [(area.start, area.end) for area in procfs.read_areas(self._held.pid)]
        place = free_hole(taken, PAGE_SIZE, self._held.stub.base)
        self._run([_unmap(place, place + PAGE_SIZE)])

    def move(self, moves: Sequence[Relocation]) -> None:
        """Move memory with its pages; raises OSError that names the step."""
        self._run(
            Operation(
                Do.MOVE,
                Flag.REPLACE,
                addr=start,
                length=end - start,
                new_addr=to,
                new_length=end - start,
            )
            for start, end, to in within_areas(self._held.pid, moves)
        )

    def apply(self, change: Change) -> None:
        """Carry out a change; raises OSError that names the step."""
        ours = [mapping for mapping in change.mapped if _is_ours(mapping)]
        plain = [_map(mapping) for mapping in ours if mapping.kind is not Kind.FILE]
        self._run([*(_unmap(start, end) for start, end in change.unmapped), *plain])
        files = (mapping for mapping in ours if mapping.kind is Kind.FILE)
        for some in by_files(files):
            with opened_files(self._root, some) as opened:
                self._run(_map(mapping, opened[mapping.path]) for mapping in some)
        rest = tuple(mapping for mapping in change.mapped if not _is_ours(mapping))
        new = fresh_flags(ours)
        self._stub.apply(Change((), rest, change.protected, (*new, *change.advised)))

    def _run(self, operations: Iterable[Operation]) -> None:
        self._device.run(self._held.pidfd, list(operations))

    def close(self) -> None:
        """Close the device."""
        self._device.close()


def open_device() -> Device:
    """Open the device; OSError where there is none that can lay memory out."""
    device = Device()
    lacks = [kind.name for kind in _NEEDED if not device.features >> kind & 1]
    if lacks:
        device.close()
        raise OSError(f"it does not know {', '.join(lacks)}")
    return device


def _is_ours(mapping: Mapping) -> bool:
    return mapping.kind not in (Kind.VVAR, Kind.VDSO) and "dp" not in mapping.flags


def _unmap(start: int, end: int) -> Operation:
    return Operation(Do.UNMAP, addr=start, length=end - start)


def _map(mapping: Mapping, descriptor: int | None = None) -> Operation:
    if is_grown(mapping):
        last, size = growth(mapping)
        return Operation(Do.MOVE, addr=last, length=PAGE_SIZE, new_addr=last, new_length=size)
    return Operation(
        Do.MAP if descriptor is None else Do.MAP_FILE,
        _map_flags(mapping),
        mapping.start,
        mapping.length,
        offset=0 if descriptor is None else mapping.offset,
        prot=mapping.prot,
        fd=descriptor or 0,
        path=mapping.path,
    )


def _map_flags(mapping: Mapping) -> int:
    flags = _NORESERVE if "nr" in mapping.flags else 0
    if mapping.kind is Kind.STACK or "gd" in mapping.flags:
        flags |= _GROWSDOWN
    return flags | (_SHARED if mapping.is_shared else 0)
