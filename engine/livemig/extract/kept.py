"""What the kernel keeps for a process, and that only the process itself can ask for: refused."""

from __future__ import annotations

import errno

from livemig.errors import NotCarried
from livemig.stub import Table
from livemig.system.memory import Memory
from livemig.system.numbers import NR_GET_MEMPOLICY, NR_KEYCTL

_DEFAULT = 0  # MPOL_DEFAULT of include/uapi/linux/mempolicy.h
_GET_KEYRING_ID = 0
_KEYRINGS = {"thread": -1, "process": -2}  # KEY_SPEC_*_KEYRING of include/uapi/linux/keyctl.h


class Kept:
    """Calls of a table that tell of keyrings and of a NUMA policy, and make none.

    Where there is no such keyring the kernel says ENOKEY (security/keys/process_keys.c,
    lookup_user_key), ENOSYS where it has no keys at all, or no NUMA.
    """

    def __init__(self, table: Table) -> None:
        self._mode = table.room(4)
        self._policy = table.call(
            "get_mempolicy", NR_GET_MEMPOLICY, self._mode, 0, 0, 0, 0, may_fail=True
        )
        self._keyrings = {
            name: table.call(f"keyctl {name}", NR_KEYCTL, _GET_KEYRING_ID, which, 0, may_fail=True)
            for name, which in _KEYRINGS.items()
        }

    def refuse(self, pid: int, results: list[int], memory: Memory) -> None:
        """Raise NotCarried, naming it, where the process has any of them."""
        for name, call in self._keyrings.items():
            if results[call] not in (-errno.ENOKEY, -errno.ENOSYS):
                raise NotCarried(
                    f"process {pid} has a {name} keyring, which cannot be carried",
                    hint="start its program without its use of keyctl(2)",
                )
        mode = int.from_bytes(memory.read(self._mode, 4), "little")
        if results[self._policy] == 0 and mode != _DEFAULT:
            raise NotCarried(
                f"process {pid} has a NUMA memory policy (set_mempolicy(2)), which cannot be "
                "carried",
                hint="start its program without numactl(8), or let it take the default one",
            )
