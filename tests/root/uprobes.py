"""A uprobe of one process alone, as perf makes it (perf_event_open(2))."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from livemig.system import procfs
from livemig.system.libc import syscall
from livemig.system.numbers import NR_PERF_EVENT_OPEN

TYPE = Path("/sys/bus/event_source/devices/uprobe/type")
ATTRIBUTES = struct.Struct("=IIQQQQQIIQQ")  # PERF_ATTR_SIZE_VER1: the last are path and offset


@contextmanager
def probed(pid: int, address: int) -> Iterator[None]:
    """Have the kernel probe an instruction of a process, for the length of a scope."""
    if not TYPE.exists():
        pytest.skip("this kernel has no uprobes")
    area = next(each for each in procfs.read_areas(pid) if each.start <= address < each.end)
    path = ctypes.create_string_buffer(area.name.encode())
    place = ctypes.addressof(path), address - area.start + area.offset
    kind, size = int(TYPE.read_text()), ATTRIBUTES.size
    attributes = ATTRIBUTES.pack(kind, size, 0, 0, 0, 0, 0, 0, 0, *place)
    buffer = ctypes.create_string_buffer(attributes, size)
    words = ctypes.byref(buffer), pid, -1, -1, ctypes.c_ulong(0)
    descriptor = syscall(NR_PERF_EVENT_OPEN, *words, what=f"probing {address:#x}")
    try:
        yield
    finally:
        os.close(descriptor)
