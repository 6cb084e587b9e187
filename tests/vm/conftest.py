"""The two machines, started once; what their kernels have to say is looked at after every test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from . import Guest
from .kernels import Kernel
from .machines import KERNEL, Pair, running_pair

# What a kernel says when something is wrong: lib/bug.c, kernel/locking/lockdep.c, mm/kasan.
COMPLAINT = re.compile(
    r"WARNING:|BUG:|INFO: .*(task|lock)|possible .* detected|suspicious RCU|Oops|KASAN|Call Trace"
    r'|apparmor="DENIED"'
)


def kernels() -> tuple[Kernel, Kernel]:
    """Return the kernels of vm1 and vm2: LIVEMIG_KERNELS names one for both, or two."""
    names = os.environ.get("LIVEMIG_KERNELS", KERNEL.name).split()
    return Kernel.named(names[0]), Kernel.named(names[-1])


@pytest.fixture(scope="session")
def machines() -> Iterator[Pair]:
    """Start both machines as they were saved, with the module and the plugin of this tree."""
    with running_pair(kernels()) as pair:
        for guest in pair:
            guest.run("dmesg --clear")
        yield pair


def complaints(guest: Guest) -> list[str]:
    """Return what the kernel of a guest has complained of, and forget it."""
    return [
        line
        for line in guest.run("dmesg --read-clear").stdout.splitlines()
        if COMPLAINT.search(line)
    ]


@pytest.fixture
def quiet(machines: Pair) -> Iterator[None]:
    """Fail a test after which a kernel has something to complain of."""
    yield
    assert {guest.name: found for guest in machines if (found := complaints(guest))} == {}
