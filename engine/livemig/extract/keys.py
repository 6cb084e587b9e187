"""Which memory protection keys a program has allocated (pkeys(7)); /proc tells of none."""

from __future__ import annotations

import errno

from livemig.errors import NotCarried
from livemig.stub import Table
from livemig.system.memory import PAGE_SIZE
from livemig.system.numbers import NR_PKEY_MPROTECT

_KEYS = range(1, 16)  # key 0 is everybody's
_NOWHERE = (1 << 56) - PAGE_SIZE  # beyond what any process can map


class AllocatedKeys:
    """Calls of a table that tell which keys are allocated, and change nothing.

    pkey_mprotect(2) looks at its key before it looks for the memory (mm/mprotect.c,
    do_mprotect_pkey): for none, ENOMEM says that the key is allocated. The one that the kernel
    itself gives to execute-only memory does not count.
    """

    def __init__(self, table: Table) -> None:
        self._calls = {
            key: table.call(
                f"pkey_mprotect {key}", NR_PKEY_MPROTECT, _NOWHERE, PAGE_SIZE, 0, key, may_fail=True
            )
            for key in _KEYS
        }

    def refuse(self, pid: int, results: list[int]) -> None:
        """Raise NotCarried, naming them, where the process has allocated any."""
        found = [key for key, call in self._calls.items() if results[call] == -errno.ENOMEM]
        if found:
            raise NotCarried(
                f"process {pid} has allocated memory protection keys "
                f"({', '.join(map(str, found))}), which cannot be carried",
                hint="start its program without its use of pkey_alloc(2)",
            )
