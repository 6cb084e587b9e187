"""What memory areas are beside their bytes: VmFlags of /proc/PID/smaps (proc(5)), and their keys.

The kernel counts pages when it writes that file: 15 ms a GiB. So it is read again only where its
flags may have changed: system calls that could change them are counted, which costs no downtime.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from contextlib import suppress

from livemig.errors import NotCarried
from livemig.model import SHARED
from livemig.system import procfs
from livemig.system.calls import Call, CallCounter
from livemig.system.procfs import Area, AreaDetails

CARRIED = frozenset(
    ("dd", "dc", "wf", "mg", "hg", "nh", "sr", "rr", "lo", "lf", "nr", "dp", "gd", "sl")
)
"""The VmFlags that are carried."""

_HINT = (
    "this version carries private mappings of memory and of files that exist, and shared ones of "
    "files that are open for reading alone"
)

_PLAIN = frozenset("rd wr ex sh mr mw me ms ac sd ar nl gu de".split())
_OURS = frozenset(("uw",))  # what our own tracker leaves
_REFUSED = {
    "ht": "huge pages (MAP_HUGETLB)",
    "io": "memory of a device",
    "pf": "memory of a device",
    "mm": "memory of a device",
    "um": "memory whose page faults a program handles (userfaultfd)",
    "uw": "memory whose page faults a program handles (userfaultfd)",
    "ui": "memory whose page faults a program handles (userfaultfd)",
    "ss": "a shadow stack",
}
_WRITTEN = frozenset((SHARED, "mw"))  # shared, and of a file that is open for writing, or of none
_FIRST_KEY = 1
_NONE = "0 kB"
_SPECIAL = ("[v", "[uprobes")  # the kernel's own, which come by themselves, or are refused

# What gives an area a flag, or takes one. An area that is mapped without one of these has none, but
# where all that is mapped is locked (mlockall(2)), which the count of locked pages tells.
_MAKING = (
    Call("enter_madvise", "behavior < 3 || (behavior > 9 && behavior < 20)"),
    Call("exit_process_madvise", lacking=True),  # any advice, since Linux 6.13, of oneself
    # SHARED, DROPPABLE, GROWSDOWN, LOCKED, NORESERVE, STACK (no huge pages, since Linux 6.7),
    # HUGETLB
    Call("enter_mmap", "flags & 0x66109"),
    Call("exit_mlock"),
    Call("exit_mlock2"),
    Call("exit_munlock"),
    Call("exit_mlockall"),
    Call("exit_munlockall"),
    Call("exit_mseal", lacking=True),
    Call("exit_mremap"),
    Call("exit_execve"),
    Call("exit_prctl"),
    # What gives memory a protection key, or has the kernel give execute-only memory another one: it
    # takes the lowest that is free.
    Call("exit_pkey_mprotect", lacking=True),
    Call("exit_pkey_alloc", lacking=True),
    Call("exit_pkey_free", lacking=True),
)
# What moves areas: no matter while none has a flag.
_MOVING = (Call("exit_munmap"), Call("exit_brk"), Call("exit_mmap"), Call("exit_madvise"))
# Calls that are counted where they begin, and may not be over yet.
_BEGUN = (Call("enter_mmap"), Call("enter_madvise"))


class _Counts:
    """How often the calls were made that matter."""

    def __init__(self, counter: CallCounter) -> None:
        found = counter.counts()
        self.making = found[: len(_MAKING)]
        self.moving = found[len(_MAKING) : len(_MAKING) + len(_MOVING)]
        self.settled = self.moving[2:] == found[-len(_BEGUN) :]


class Properties:
    """The flags of a process's areas, those in CARRIED; NotCarried for one that cannot be."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._counter: CallCounter | None = None
        self._now: _Counts | None = None
        self._counts: _Counts | None = None  # when the flags were read
        self._spans: list[tuple[int, int, tuple[str, ...]]] = []
        self._known = False
        self.huge: list[tuple[int, int]] = []  # areas that hold huge pages
        self.reads = 0

    def watch(self) -> None:
        """Count system calls from now on, where the kernel can do that."""
        with suppress(OSError):
            self._counter = CallCounter(self.pid, (*_MAKING, *_MOVING, *_BEGUN))

    @property
    def watching(self) -> bool:
        """Tell whether system calls are counted."""
        return self._counter is not None

    def look(self) -> None:
        """Take note of the calls that were made, before the areas are read that ``of`` is for.

        What is called from then on is not known of them, and has the next look read them again.
        """
        self._now = _Counts(self._counter) if self._counter else None

    def of(self, areas: Sequence[Area], *, frozen: bool) -> list[tuple[str, ...]]:
        """Return the flags of each area, exact when the process is ``frozen``."""
        if not self._known or self._may_have_changed(frozen) or self._shares_anew(areas):
            self._read(areas)
        ends = [end for _, end, _ in self._spans]
        return [self._flags(ends, area) for area in areas]

    def _flags(self, ends: list[int], area: Area) -> tuple[str, ...]:
        """Return the flags of the end of an area, which may have grown downwards."""
        index = bisect.bisect_left(ends, area.end)
        if index < len(ends) and self._spans[index][0] < area.end:
            return self._spans[index][2]
        return ()

    def _may_have_changed(self, frozen: bool) -> bool:
        now, before = self._now, self._counts
        if now is None or before is None:
            return frozen
        moved = any(flags for _, _, flags in self._spans) and now.moving != before.moving
        made = not before.settled or now.making != before.making
        return moved or made or self._holds_new_locks()

    def _shares_anew(self, areas: Sequence[Area]) -> bool:
        """Tell whether an area is shared of which it was not read yet whether it can be written."""
        shared = {(area.start, area.end) for area in areas if area.shared}
        return bool(shared) and not shared <= {(start, end) for start, end, _ in self._spans}

    def _holds_new_locks(self) -> bool:
        """Tell whether memory is locked where none was: it is by itself after MCL_FUTURE."""
        known = any("lo" in flags for _, _, flags in self._spans)
        return not known and procfs.read_status(self.pid).get("VmLck", _NONE) != _NONE

    def _read(self, areas: Sequence[Area]) -> None:
        self._counts = self._now
        details = procfs.read_area_details(self.pid)
        self.reads += 1
        nothing = AreaDetails(frozenset(), 0)
        found = [(area, details.get(area.start, nothing)) for area in areas]
        self._spans = [
            (area.start, area.end, _carried(self.pid, area, each)) for area, each in found
        ]
        self.huge = [(area.start, area.end) for area, each in found if each.huge]
        # One that is missing has become part of another since, of which nothing is known yet.
        self._known = all(area.start in details for area in areas)

    def close(self) -> None:
        """Count no more."""
        if self._counter is not None:
            self._counter.close()
            self._counter = None


def _carried(pid: int, area: Area, details: AreaDetails) -> tuple[str, ...]:
    if area.name.startswith(_SPECIAL):
        return ()
    refuse_area(pid, area, details._replace(flags=details.flags - _OURS))
    ignored = {"gd"} if area.name == "[stack]" else set()
    return tuple(sorted((details.flags & CARRIED) - ignored))


def refuse_area(pid: int, area: Area, details: AreaDetails) -> None:
    """Raise NotCarried for an area with a flag or a key that cannot be carried, named."""
    if area.name.startswith(_SPECIAL):
        return
    for flag in sorted(details.flags - CARRIED - _PLAIN):
        unknown = f"memory with a property ({flag}) that is not known"
        raise refused(pid, area, _REFUSED.get(flag, unknown))
    if details.flags >= _WRITTEN:
        raise refused(pid, area, "shared memory")
    if details.key and not _comes_by_itself(area, details.key):
        raise refused(
            pid,
            area,
            f"memory with protection key {details.key}",
            "this version carries no protection keys (pkey_alloc(2))",
        )


def _comes_by_itself(area: Area, key: int) -> bool:
    """Tell whether the target's kernel gives the area the same key.

    Memory that can be executed and nothing else gets one (arch/x86/mm/pkeys.c,
    __execute_only_pkey): the first of all where the program has allocated none.
    """
    return area.prot == procfs.PROT_EXEC and key == _FIRST_KEY


def refused(pid: int, area: Area, what: str, hint: str = _HINT) -> NotCarried:
    """Return the error for an area that cannot be carried, by its address and file."""
    name = f" ({area.name})" if area.name else ""
    place = f"{area.start:#x}-{area.end:#x}{name}"
    return NotCarried(f"process {pid}: {what} at {place} cannot be carried", hint=hint)
