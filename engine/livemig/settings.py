"""Settings of a process that prctl(2), or arch_prctl(2), both reads and sets: one table for both
sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from livemig.stub import Table
from livemig.system.memory import Memory
from livemig.system.numbers import NR_ARCH_PRCTL, NR_PRCTL

_GET_SPECULATION, _SET_SPECULATION = 52, 53
_SPECULATION_IS_OWN = 1  # PR_SPEC_PRCTL: a thread has a say in it
_MCE_SET = 1
_TILES = 18  # the number of their state component (XFEATURE_XTILE_DATA)


@dataclass(frozen=True)
class _Setting:
    """Arguments of a system call to read and to set; ``pointer``: the value comes in memory.

    Of the value only ``bits`` are the process's own setting.
    """

    get: tuple[int, ...]
    set: Callable[[int], tuple[int, ...]]
    pointer: bool = False
    number: int = NR_PRCTL
    bits: int = -1


def _plain(option: int) -> Callable[[int], tuple[int, ...]]:
    return lambda value: (option, value, 0, 0, 0)


def _speculation(which: int) -> _Setting:
    return _Setting(
        (_GET_SPECULATION, which),
        lambda value: (_SET_SPECULATION, which, value & ~_SPECULATION_IS_OWN, 0, 0),
    )


SETTINGS: Mapping[str, _Setting] = {
    "PR_SET_PDEATHSIG": _Setting((2,), _plain(1), pointer=True),
    "PR_SET_CHILD_SUBREAPER": _Setting((37,), _plain(36), pointer=True),
    "PR_SET_TSC": _Setting((25,), _plain(26), pointer=True),
    "PR_MCE_KILL": _Setting((34,), lambda value: (33, _MCE_SET, value, 0, 0)),
    # From Linux 6.18 on the value holds flags beside bit 0 (PR_THP_DISABLE_EXCEPT_ADVISED).
    "PR_SET_THP_DISABLE": _Setting((42,), lambda value: (41, value & 1, value & ~1, 0, 0)),
    "PR_SET_MEMORY_MERGE": _Setting((68,), _plain(67)),
    "PR_SET_MDWE": _Setting((66,), _plain(65)),
    "PR_SPEC_STORE_BYPASS": _speculation(0),
    "PR_SPEC_INDIRECT_BRANCH": _speculation(1),
    "PR_SPEC_L1D_FLUSH": _speculation(2),
    # Whether CPUID may be executed, which every kernel tells, and some CPUs let it forbid.
    "ARCH_SET_CPUID": _Setting((0x1011,), lambda value: (0x1012, value), number=NR_ARCH_PRCTL),
    # Whether AMX's tiles may be used. It cannot be taken back, so it is never to be set to 0.
    "ARCH_REQ_XCOMP_PERM": _Setting(
        (0x1022,), lambda _: (0x1023, _TILES), True, NR_ARCH_PRCTL, 1 << _TILES
    ),
}
"""By name; a kernel that lacks one does not tell it, and then it was never set."""


class Reading:
    """The calls that read all settings, added to a table; ``values`` once it has run."""

    def __init__(self, table: Table) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        for name, setting in SETTINGS.items():
            room = table.room(8) if setting.pointer else 0
            arguments = (*setting.get, room) if setting.pointer else (*setting.get, 0, 0, 0, 0)[:5]
            call = table.call(f"reading {name}", setting.number, *arguments, may_fail=True)
            self._places[name] = call, room

    def values(self, results: list[int], memory: Memory) -> dict[str, int]:
        """Return the settings that the kernel told."""
        found = {}
        for name, (call, room) in self._places.items():
            if results[call] >= 0:
                value = int.from_bytes(memory.read(room, 4), "little") if room else results[call]
                found[name] = value & SETTINGS[name].bits
        return found


def add_changes(table: Table, present: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    """Add the calls that lead from ``present`` settings to ``wanted`` ones."""
    for name, value in wanted.items():
        if name in SETTINGS and present.get(name, 0) != value:
            setting = SETTINGS[name]
            table.call(f"{name} {value}", setting.number, *setting.set(value))
