"""Registrations of membarrier(2), without which its expedited commands return EPERM.

They are the address space's, and an executed program begins without any.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from livemig.stub import Table
from livemig.system.numbers import NR_MEMBARRIER

# enum membarrier_cmd in the kernel's include/uapi/linux/membarrier.h
_GET_REGISTRATIONS = 1 << 9  # Linux 6.3 on
_REGISTER_GLOBAL_EXPEDITED = 1 << 2
# PRIVATE_EXPEDITED, PRIVATE_EXPEDITED_SYNC_CORE, PRIVATE_EXPEDITED_RSEQ: by the command that
# registers, the one that may be given then.
_PRIVATE: Mapping[int, int] = {1 << 4: 1 << 3, 1 << 6: 1 << 5, 1 << 8: 1 << 7}


class Registrations:
    """Calls of a table that tell what a process has registered for, and change nothing.

    Private commands are given: they return EPERM where nobody registered, and harm nobody. That
    tells more than the kernel's own list, where each of them stands for PRIVATE_EXPEDITED as well
    (kernel/sched/membarrier.c, membarrier_get_registrations).
    """

    def __init__(self, table: Table) -> None:
        self._list = _add(table, _GET_REGISTRATIONS)
        self._given = {register: _add(table, command) for register, command in _PRIVATE.items()}

    def commands(self, results: list[int]) -> int:
        """Return the commands that register for the same again, all in one mask.

        On a kernel that has no list GLOBAL_EXPEDITED is one of them: to be registered for that
        without need costs an interrupt where somebody gives the command.
        """
        listed = results[self._list]
        if listed == -errno.EINVAL:
            listed = _REGISTER_GLOBAL_EXPEDITED
        found = listed & _REGISTER_GLOBAL_EXPEDITED if listed > 0 else 0
        return found | sum(each for each, call in self._given.items() if results[call] == 0)


def _add(table: Table, command: int) -> int:
    return table.call(f"membarrier {command:#x}", NR_MEMBARRIER, command, 0, 0, may_fail=True)


def add_registrations(table: Table, commands: int) -> None:
    """Add the calls that register for what ``commands`` says."""
    for command in (_REGISTER_GLOBAL_EXPEDITED, *_PRIVATE):
        if commands & command:
            table.call(f"membarrier {command:#x}", NR_MEMBARRIER, command, 0, 0)
