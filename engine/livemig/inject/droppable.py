"""Memory that the kernel may drop at any time (MAP_DROPPABLE), which came with Linux 6.11."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterable
from dataclasses import replace

from livemig.model import Mapping
from livemig.system.memory import PAGE_SIZE

MAP_DROPPABLE = 0x08
_FLAG = "dp"


@functools.cache
def is_known() -> bool:
    """Tell whether this kernel has such memory."""
    try:
        mmap.mmap(-1, PAGE_SIZE, MAP_DROPPABLE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


def adapted(mappings: Iterable[Mapping]) -> tuple[Mapping, ...]:
    """Return mappings with ordinary memory in place of such, where this kernel has none.

    It is never dropped then, and has their other properties: a fork wipes it, no core shows it.
    """
    return tuple(
        replace(each, flags=tuple(flag for flag in each.flags if flag != _FLAG))
        if _FLAG in each.flags and not is_known()
        else each
        for each in mappings
    )
