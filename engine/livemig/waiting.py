"""Let a thread that we stopped wait no longer than it would have, when it goes on here."""

from __future__ import annotations

from contextlib import suppress

from livemig import detour
from livemig.errors import NotCarried
from livemig.infect import MAP_PRIVATE_ANONYMOUS, Gadgets, borrow
from livemig.system import ptrace
from livemig.system.memory import PAGE_SIZE, Memory
from livemig.system.numbers import NR_MMAP
from livemig.system.procfs import PROT_EXEC, PROT_READ
from livemig.tracing import Tracee


def end_on_time(tracee: Tracee, memory: Memory, gadgets: Gadgets) -> None:
    """Send a stopped thread on a way round where its call would wait for its whole time again.

    Where there is no room for that on its stack or in its memory, it does wait so long: that is no
    reason to fail where a move is undone. Raises ProcessGone.
    """
    if not tracee.call.starts_over():
        return
    with suppress(NotCarried, OSError):
        _go_round(tracee, memory, gadgets)


def _go_round(tracee: Tracee, memory: Memory, gadgets: Gadgets) -> None:
    xstate, mask = ptrace.get_xstate(tracee.tid), ptrace.get_sigmask(tracee.tid)
    place = detour.room(tracee.true_registers(), xstate, memory)
    if place is None:
        return
    with borrow(tracee, memory, gadgets) as loan:
        page = loan.call(
            "mmap", NR_MMAP, 0, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE_ANONYMOUS, -1, 0
        )
    way = detour.Way(page, loan.gadgets, place, xstate, mask)
    around = tracee.call.enter_detour(loan.registers, way)
    ptrace.set_registers(tracee.tid, around)
