"""The device is asked for what the stub is asked for; which of the two lays out is found by trying.

tests/root runs both on a kernel that has the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livemig.errors import KernelLacks
from livemig.inject import check_layout, device_layout, lay_out_by
from livemig.inject.device_layout import DeviceLayout
from livemig.inject.held import Held
from livemig.inject.layout import StubLayout
from livemig.layout import Change, difference
from livemig.model import Kind, LayoutChoice, Mapping
from livemig.stub.table import Table
from livemig.system import device, numbers
from livemig.system.device import Do, Flag, Operation
from livemig.system.procfs import Area
from tests.unit.test_layout import layouts

MAP_SHARED, MAP_PRIVATE = 0x01, 0x02
MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_NORESERVE = 0x20, 0x100, 0x4000
MAP_FIXED_NOREPLACE = 0x100000
MAYMOVE, FIXED = 1, 2
FLAGS = ((), (), ("nr",), ("dd", "nr"), ("lf", "lo"), ("dp", "wf"), ("gd",))
FILE_FLAGS = ((), ("ms",), ("nr",), ("ms", "nr"))
OF_KIND = {Kind.ANONYMOUS: FLAGS, Kind.FILE: FILE_FLAGS}
OTHERS = ((),)
ALL = sum(1 << kind for kind in Do)
Step = tuple[object, ...]


class Process:
    """Stands for a held process and its stub; notes what either back end has it changed by."""

    def __init__(self) -> None:
        self.pid, self.pidfd, self.base = os.getpid(), -1, 0x180_0000_0000
        self.stub = self
        self.steps: list[Step] = []
        self._paths: dict[int, str] = {}

    def table(self) -> Table:
        return Table(self.base)

    def pass_descriptors(self, _: Table, descriptors: Sequence[int]) -> list[int]:
        self._paths = {100 + each: os.readlink(f"/proc/self/fd/{each}") for each in descriptors}
        return list(self._paths)

    def run(self, table: Table) -> list[int]:
        for _, (number, *words), _ in table._calls:
            if number == numbers.NR_MMAP:
                start, length, prot, flags, descriptor, offset = words
                path = self._paths.get(descriptor, "")
                self.steps.append(("map", start, length, prot, flags, path, offset))
            elif number == numbers.NR_MUNMAP:
                self.steps.append(("unmap", *words[:2]))
            elif number == numbers.NR_MREMAP:
                start, old, new, flags, to, _ = words
                assert flags == MAYMOVE | FIXED
                self.steps.append(("move", start, old, new, to))
            elif number != numbers.NR_CLOSE:
                self.steps.append((number, *words))
        return [0] * len(table)


class Device:
    """Stands for the device: notes what the same calls of the process would be."""

    features = ALL
    process: Process
    refuses: OSError | None = None
    opened = 0

    def __init__(self) -> None:
        Device.opened += 1

    def close(self) -> None:
        Device.opened -= 1

    def run(self, _: int, operations: Sequence[Operation]) -> None:
        if self.refuses:
            raise self.refuses
        self.process.steps += [self._step(each) for each in operations]

    def _step(self, operation: Operation) -> Step:
        if operation.kind is Do.UNMAP:
            return "unmap", operation.addr, operation.length
        if operation.kind is Do.MOVE:
            assert operation.flags == Flag.REPLACE, "as mremap does"
            before = (operation.addr, operation.length)
            return "move", *before, operation.new_length, operation.new_addr
        flags = MAP_SHARED if operation.flags & Flag.SHARED else MAP_PRIVATE
        flags |= MAP_FIXED_NOREPLACE
        flags |= MAP_GROWSDOWN if operation.flags & Flag.GROWSDOWN else 0
        flags |= MAP_NORESERVE if operation.flags & Flag.NORESERVE else 0
        path = ""
        if operation.kind is Do.MAP_FILE:
            path = os.readlink(f"/proc/self/fd/{operation.fd}")
        else:
            flags |= MAP_ANONYMOUS
        where = (operation.addr, operation.length, operation.prot)
        return "map", *where, flags, path, operation.offset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    place = tmp_path_factory.mktemp("root")
    (place / "bin").mkdir()
    for name in ("a", "b"):
        (place / "bin" / name).touch()
    descriptor = os.open(place, os.O_PATH)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(scope="module", autouse=True)
def _fake() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_layout, "Device", Device)
        patch.setattr(Device, "process", Process(), raising=False)
        yield
    assert Device.opened == 0


@st.composite
def flagged(draw: st.DrawFn) -> list[Mapping]:
    found = []
    for mapping in draw(layouts()):
        flags = draw(st.sampled_from(OF_KIND.get(mapping.kind, OTHERS)))
        found.append(replace(mapping, flags=flags))
    return found


def carried_out(kind: type[DeviceLayout | StubLayout], root: int, change: Change) -> list[Step]:
    process = Device.process = Process()
    backend = kind(cast("Held", process), root)
    process.steps.clear()
    backend.apply(change)
    backend.close()
    return process.steps


def place(step: Step) -> tuple[bool, bool, Any]:
    return step[0] != "unmap", step[0] != "map", step[1:]


@given(old=flagged(), new=flagged())
def test_both_do_the_same(root: int, old: list[Mapping], new: list[Mapping]) -> None:
    change = difference(old, new)
    by_stub, by_device = (carried_out(kind, root, change) for kind in (StubLayout, DeviceLayout))
    assert sorted(by_device, key=place) == sorted(by_stub, key=place)
    made = [step[0] == "unmap" for step in by_device]
    assert made == sorted(made, reverse=True), "what goes makes room for what comes"
    mapped = [step[0] in ("map", numbers.NR_ARCH_PRCTL) for step in by_device[sum(made) :]]
    assert mapped == sorted(mapped, reverse=True), "what is not there yet cannot be advised"


@pytest.mark.parametrize("kind", [StubLayout, DeviceLayout])
def test_a_move_is_made_mapping_by_mapping(
    monkeypatch: pytest.MonkeyPatch, root: int, kind: type[DeviceLayout | StubLayout]
) -> None:
    process = Device.process = Process()
    backend = kind(cast("Held", process), root)
    process.steps.clear()
    areas = [
        Area(start, start + 0x2000, 3, False, 0, "00:00", 0, "")
        for start in (0x8000, 0xA000, 0xF000)
    ]
    monkeypatch.setattr("livemig.system.procfs.read_areas", lambda _: areas)
    backend.move([(0x9000, 0xC000, 0x29000), (0xF000, 0x10000, 0x31000)])
    backend.close()
    assert process.steps == [
        ("move", 0x9000, 0x1000, 0x1000, 0x29000),
        ("move", 0xA000, 0x2000, 0x2000, 0x2A000),
        ("move", 0xF000, 0x1000, 0x1000, 0x31000),
    ]


@pytest.mark.parametrize("choice", ["auto", "device", "stub"])
@pytest.mark.parametrize("there", ["device", "other-version", "lacking", "file", "nothing", "no"])
def test_what_the_host_has_is_found_by_trying(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: int, choice: LayoutChoice, there: str
) -> None:
    held = cast("Held", Process())
    if there == "lacking":
        monkeypatch.setattr(Device, "features", ALL & ~(1 << Do.MAP_FILE))
    elif there == "no":
        monkeypatch.setattr(Device, "refuses", PermissionError(1, "Operation not permitted"))
    elif there != "device":
        path = tmp_path / "livemig"
        monkeypatch.setattr(device_layout, "Device", device.Device)
        monkeypatch.setattr(device, "PATH", str(path))
        if there != "nothing":
            path.touch()
        if there == "other-version":
            monkeypatch.setattr(
                "livemig.system.device.fcntl.ioctl", lambda *_: device._INFO.pack(2, 9, ALL)
            )
    if choice == "device" and there not in ("device", "no"):
        with pytest.raises(KernelLacks, match=rf"{os.uname().nodename} lacks .*--layout device"):
            check_layout(choice)
    else:
        check_layout(choice)
    if choice == "device" and there != "device":
        with pytest.raises(KernelLacks, match=r"--layout device") as caught:
            lay_out_by(choice, held, root)
        assert "--layout auto" in caught.value.hint
    else:
        found = lay_out_by(choice, held, root)
        found.close()
        assert found.name == ("device" if there == "device" and choice != "stub" else "stub")
        stands_against = choice == "auto" and there not in ("device", "nothing")
        assert bool(found.passed_over) == stands_against
