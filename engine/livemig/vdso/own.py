"""The vDSO that this machine's kernel maps into every process."""

from __future__ import annotations

import os
from dataclasses import dataclass

from livemig.errors import InternalError
from livemig.system import procfs
from livemig.system.memory import Memory


@dataclass(frozen=True)
class Own:
    """Its code, and the bytes of the kernel's data that lie before it."""

    code: bytes
    before: int


def own() -> Own:
    """Return the vDSO of this kernel, as this process has it."""
    first = before = 0
    for area in procfs.read_areas(os.getpid()):
        if area.name.startswith("[vvar"):
            first = area.start if area.start != before else first
            before = area.end
        elif area.name == "[vdso]":
            start = first if before == area.start else area.start
            return Own(_code(area), area.start - start)
    raise InternalError("this process has no vDSO")


def _code(area: procfs.Area) -> bytes:
    memory = Memory(os.getpid())
    try:
        return memory.read(area.start, area.end - area.start)
    finally:
        memory.close()
