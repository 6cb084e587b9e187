"""Guests under QEMU: whole machines with a kernel of their own, for what namespaces cannot show.

with running(Guest(state_root() / "debian")) as guest:
    start_ready(guest)
    clone(guest)
    make(guest, "test", limit=3600)
"""

from .debian import (
    CLONE,
    clone,
    demonstrate,
    make,
    prepare,
    running,
    start_bare,
    start_ready,
    state_root,
)
from .guest import Guest, Parts, Size
from .prepared import is_prepared, prepare_all
from .qmp import VmError

__all__ = [
    "CLONE",
    "Guest",
    "Parts",
    "Size",
    "VmError",
    "clone",
    "demonstrate",
    "is_prepared",
    "make",
    "prepare",
    "prepare_all",
    "running",
    "start_bare",
    "start_ready",
    "state_root",
]
