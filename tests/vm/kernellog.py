"""What the kernel of a guest has to say when something is wrong."""

from __future__ import annotations

import re

from .guest import Guest

# lib/bug.c, kernel/locking/lockdep.c, mm/kasan.
COMPLAINT = re.compile(
    r"WARNING:|BUG:|INFO: .*(task|lock)|possible .* detected|suspicious RCU|Oops|KASAN|Call Trace"
    r'|apparmor="DENIED"'
)
TAINTS = {7: "D", 9: "W"}
"""Bits of kernel.tainted: it died, it warned (Documentation/admin-guide/tainted-kernels.rst)."""


def complaints(guest: Guest) -> list[str]:
    """Return what the kernel of a guest has complained of, and forget its words."""
    said = guest.run("dmesg --read-clear").stdout.splitlines()
    return [*filter(COMPLAINT.search, said), *_damage(guest)]


def _damage(guest: Guest) -> list[str]:
    """Return what shows that a kernel has complained, whatever has become of its words.

    Lockdep says one thing, and then looks at nothing any more.
    """
    taint = int(guest.run("cat /proc/sys/kernel/tainted").stdout)
    found = [f"taint {name}" for bit, name in TAINTS.items() if taint >> bit & 1]
    lockdep = guest.run("cat /proc/lockdep_stats", check=False).stdout
    if lockdep and not re.search(r"^ *debug_locks: +1$", lockdep, re.MULTILINE):
        found.append("lockdep is off")
    return found
