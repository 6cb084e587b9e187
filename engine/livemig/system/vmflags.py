"""VmFlags of /proc/PID/smaps (fs/proc/task_mmu.c, show_smap_vma_flags), whose order is told too.

The kernel writes them by ascending bit, and ``??`` for a bit that it has no name for. Linux 6.1 has
none for VM_LOCKONFAULT (bit 19, mlock2(2)), 6.12 has: ``lf``.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from livemig.system.libc import syscall
from livemig.system.numbers import NR_MLOCK2

UNNAMED = "??"
_ON_FAULT = "lf"
_MLOCK_ONFAULT = 1
# The bits above that one in the kernels that do not name it, as they are named there.
_ABOVE = frozenset("ac nr ht sf ar wf dd sd mm hg nh mg ui".split())


def named(words: Sequence[str]) -> frozenset[str]:
    """Return the flags of an area, with the name of the one that this kernel cannot name.

    Other bits without a name stay as they are.
    """
    found = frozenset(words)
    if UNNAMED in found and _is_on_fault(words) and _lacks_name():
        return found - {UNNAMED} | {_ON_FAULT}
    return found


def _is_on_fault(words: Sequence[str]) -> bool:
    """Tell whether the bit without a name can only be that of memory that is locked on fault.

    It comes with VM_LOCKED (bit 13). From there up to bit 31 all others have a name.
    """
    place = words.index(UNNAMED)
    before, after = set(words[:place]), set(words[place + 1 :])
    return "lo" in before and not before & _ABOVE and after <= _ABOVE


@functools.cache
def _lacks_name() -> bool:
    """Lock a page of our own on fault, and see whether this kernel has a name for that."""
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        with suppress(OSError):  # then nothing tells, and the flag stays without a name
            place = ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE)
            syscall(NR_MLOCK2, *place, ctypes.c_int(_MLOCK_ONFAULT), what="mlock2")
            flags = _own(start)
            return UNNAMED in flags and _ON_FAULT not in flags
    return False


def _own(start: int) -> list[str]:
    """Return the flags of an area of our own."""
    _, _, area = Path("/proc/self/smaps").read_text(encoding="utf-8").partition(f"\n{start:x}-")
    _, _, flags = area.partition("VmFlags: ")
    return flags.partition("\n")[0].split()
