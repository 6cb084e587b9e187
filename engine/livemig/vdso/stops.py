"""Whether a stopped thread would go on in code that another kernel does not have: in a vDSO.

Its own registers tell, and those that signal frames on its stacks hold, to which handlers return.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from livemig import sigframe
from livemig.system import procfs
from livemig.system.memory import Memory
from livemig.system.procfs import Area
from livemig.system.ptrace import Registers

_DEPTH = 1 << 20  # bytes from a stack pointer on in which frames are looked for
_FRAMES = 64


def within(registers: Registers, memory: Memory, spans: Sequence[tuple[int, int]]) -> str:
    """Say in what way a thread is within one of the ``spans``; empty where it is not."""
    if _inside(registers.rip, spans):
        return "it runs within the vDSO"
    if any(_inside(place, spans) for place in _returns(registers.rsp, memory)):
        return "a signal handler that interrupted it within the vDSO has not returned"
    return ""


def _inside(place: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in spans)


def _returns(pointer: int, memory: Memory) -> Iterator[int]:
    """Yield the instructions to which signal handlers return, from the innermost one on.

    A handler on an alternate stack has its frame there, which tells where the stack before is.
    """
    areas = procfs.read_areas(memory.pid)
    pointers, seen = [pointer], set[int]()
    while pointers and len(seen) < _FRAMES:
        at = pointers.pop()
        area = next((each for each in areas if each.start <= at < each.end), None)
        if area is None or at in seen:
            continue
        seen.add(at)
        for instruction, stack in sigframe.saved(_read(memory, area, at & ~7), at & ~7):
            yield instruction
            if not area.start <= stack < area.end:
                pointers.append(stack)


def _read(memory: Memory, area: Area, start: int) -> bytes:
    try:
        return memory.read(start, min(area.end - start, _DEPTH) & ~7)
    except ProcessLookupError:
        raise
    except OSError:  # what cannot be read is no stack
        return b""
