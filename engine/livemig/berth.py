"""Where a frame of ours may lie while a thread is away: on a stack, where nothing is in use.

A thread on a stack of its own making (an alternate one, a coroutine's) may have very little of it:
what lies below is something else, which our death would leave overwritten. The process's first
stack grows into what nobody has used. It is made to grow once: what it grew by is filled with a
pattern, by which the next borrowing knows it again, as long as nothing else was written there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from livemig.system.memory import PAGE_SIZE, Memory
from livemig.system.procfs import PROT_WRITE, Area

_RED_ZONE = 128
_GROWTH = 1 << 20  # bytes that the first stack may grow by at once
_PATTERN = b"docker-livemig: nothing is here.".ljust(64, b"\xa5")


def berths(memory: Memory, areas: Sequence[Area], pointer: int, room: int) -> Iterator[int]:
    """Yield addresses from which on ``room`` bytes are free, the best first.

    ``areas`` are the process's, ``pointer`` the thread's stack pointer. Whether there is memory to
    be had tells only the attempt to use it. Raises ProcessLookupError where the process is gone.
    """
    first = next((area for area in areas if area.name == "[stack]"), None)
    if first is not None and not first.start <= pointer <= first.end:
        below = _below(memory, first, room)
        if below is not None:
            yield below
        return
    place = pointer - _RED_ZONE - room
    for area in areas:
        low = area.start - _GROWTH if area.name == "[stack]" else area.start
        if area.start <= pointer <= area.end and low <= place and area.prot & PROT_WRITE:
            yield place


def _below(memory: Memory, stack: Area, room: int) -> int | None:
    """Return where the lowest pages of the first stack begin, ours alone; None if it is full."""
    room = -(-room // PAGE_SIZE) * PAGE_SIZE
    pattern = _PATTERN * (room // len(_PATTERN))
    if memory.read(stack.start, min(room, stack.end - stack.start)) == pattern:
        return stack.start
    try:
        memory.write(stack.start - room, pattern)
    except ProcessLookupError:
        raise
    except OSError:
        return None
    return stack.start - room
