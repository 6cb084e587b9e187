"""What a kernel lacks is said by name, and the way out with it."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from livemig.errors import KernelLacks
from livemig.pagemap import Pagemap
from livemig.system.memory import Memory
from livemig.tracker import WriteProtectScan


class OldLoan:
    """A borrowed thread on a kernel that refuses userfaultfd, as some are configured."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def undone_by(self, *_: int) -> AbstractContextManager[None]:
        return nullcontext()

    def call(self, name: str, number: int, *arguments: int) -> int:
        raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)} {number} {arguments}")


@pytest.mark.parametrize(("can_scan", "named"), [(False, "PAGEMAP_SCAN"), (True, "userfaultfd")])
def test_a_kernel_that_cannot_is_told_and_offered_the_other_mode(
    can_scan: bool, named: str
) -> None:
    pagemap = Pagemap(os.getpid())
    pagemap.can_scan = can_scan
    memory = Memory(os.getpid())
    loan: Any = OldLoan(memory)
    with pytest.raises(KernelLacks, match=named) as caught:
        WriteProtectScan.plant(loan, pagemap)
    pagemap.close()
    memory.close()
    assert os.uname().release in caught.value.message
    assert "--mode stop-and-copy" in caught.value.hint
