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
TAINTS = {7: "D", 9: "W"}
"""Bits of kernel.tainted: it died, it warned (Documentation/admin-guide/tainted-kernels.rst)."""


def kernels() -> tuple[Kernel, Kernel]:
    """Return the kernels of vm1 and vm2: LIVEMIG_KERNELS names one for both, or two."""
    names = os.environ.get("LIVEMIG_KERNELS", KERNEL.name).split()
    return Kernel.named(names[0]), Kernel.named(names[-1])


@pytest.fixture(scope="session")
def machines() -> Iterator[Pair]:
    """Start both machines as they were saved, with the module and the plugin of this tree."""
    with running_pair(kernels()) as pair:
        _require_quiet(pair)
        yield pair


def complaints(guest: Guest) -> list[str]:
    """Return what the kernel of a guest has complained of, and forget it."""
    return [
        line
        for line in guest.run("dmesg --read-clear").stdout.splitlines()
        if COMPLAINT.search(line)
    ]


def damage(guest: Guest) -> list[str]:
    """Return what shows that a kernel has complained, whatever has become of its words.

    Lockdep says one thing, and then looks at nothing any more.
    """
    taint = int(guest.run("cat /proc/sys/kernel/tainted").stdout)
    found = [f"taint {name}" for bit, name in TAINTS.items() if taint >> bit & 1]
    lockdep = guest.run("cat /proc/lockdep_stats", check=False).stdout
    if lockdep and not re.search(r"^ *debug_locks: +1$", lockdep, re.MULTILINE):
        found.append("lockdep is off")
    return found


def _require_quiet(pair: Pair) -> None:
    said = {guest.name: [*complaints(guest), *damage(guest)] for guest in pair}
    assert not any(said.values()), said


@pytest.fixture
def quiet(machines: Pair) -> Iterator[None]:
    """Fail a test after which a kernel has something to complain of."""
    yield
    _require_quiet(machines)
