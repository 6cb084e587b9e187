"""Segment descriptors of a process's own, which 32-bit code needs; /proc tells of none."""

from __future__ import annotations

from livemig.errors import NotCarried
from livemig.stub import Table
from livemig.system import ptrace
from livemig.system.numbers import NR_MODIFY_LDT

_READ_LDT = 0
_ENTRY_SIZE = 8  # LDT_ENTRY_SIZE, asm/ldt.h
_HINT = "this version carries programs of 64-bit code"


class LocalDescriptors:
    """A call of a table that tells whether a process has a table of its own (modify_ldt(2)).

    Where it has none, nothing is read (arch/x86/kernel/ldt.c, read_ldt).
    """

    def __init__(self, table: Table) -> None:
        arguments = (_READ_LDT, table.room(_ENTRY_SIZE), _ENTRY_SIZE)
        self._call = table.call("modify_ldt", NR_MODIFY_LDT, *arguments, may_fail=True)

    def refuse(self, pid: int, results: list[int]) -> None:
        """Raise NotCarried where the process has one."""
        if results[self._call] > 0:
            raise NotCarried(
                f"process {pid} has segments of its own (modify_ldt(2)), which cannot be carried",
                hint=_HINT,
            )


def refuse_thread_areas(pid: int, tid: int) -> None:
    """Raise NotCarried where a stopped thread has segments of its own (set_thread_area(2))."""
    if ptrace.has_thread_areas(tid):
        raise NotCarried(
            f"process {pid}: thread {tid} has segments of its own (set_thread_area(2)), which "
            "cannot be carried",
            hint=_HINT,
        )
