"""Borrow the thread of a program, and say what it looks like before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from livemig.infect import Loan, borrow, find_gadgets, infected
from livemig.stub import Stub
from livemig.system import procfs, ptrace
from livemig.system.memory import Memory
from livemig.system.procfs import Area
from livemig.tracing import Tracee
from tests.root.apps import App

NR_GETPID, NR_CLOSE, NR_NANOSLEEP = 39, 3, 35
_AROUND = 8192


@dataclass(frozen=True)
class Look:
    """All that a debugger can see of a stopped thread."""

    registers: dict[str, int]
    xstate: bytes
    mask: int
    pending: tuple[bytes, ...]
    areas: tuple[Area, ...]
    stack: bytes
    descriptors: tuple[int, ...]


class Borrower:
    """Attaches to a program and borrows its thread; detached when closed."""

    def __init__(self, app: App) -> None:
        self.pid = app.pid
        self.tracee = Tracee(app.pid)
        self.memory = Memory(app.pid)
        self.gadgets = find_gadgets(app.pid, self.memory)

    def close(self) -> None:
        self.memory.close()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold the thread stopped for the length of a scope."""
        self.tracee.attach()
        self.tracee.stop()
        try:
            yield
        finally:
            self.tracee.detach()

    @contextmanager
    def loan(self) -> Iterator[Loan]:
        with borrow(self.tracee, self.memory, self.gadgets) as loan:
            yield loan

    @contextmanager
    def stub(self) -> Iterator[Stub]:
        with self.loan() as loan, infected(loan) as stub:
            yield stub

    def work(self, calls: int = 50) -> None:
        """Do what an extraction does: single calls, then a table."""
        with self.loan() as loan:
            assert loan.call("getpid", NR_GETPID) == 1
            with infected(loan) as stub:
                table = stub.table()
                for _ in range(calls):
                    table.call("getpid", NR_GETPID)
                assert stub.run(table) == [1] * calls

    def look(self) -> Look:
        """Look at the stopped thread."""
        registers = self.tracee.true_registers()
        return Look(
            registers.as_dict(),
            ptrace.get_xstate(self.pid),
            ptrace.get_sigmask(self.pid),
            tuple(
                info
                for shared in (False, True)
                for info in ptrace.pending_signals(self.pid, shared=shared)
            ),
            tuple(
                area._replace(start=0) if area.name == "[stack]" else area  # it may grow
                for area in procfs.read_areas(self.pid)
            ),
            self._stack(registers.rsp),
            tuple(procfs.descriptors(self.pid)),
        )

    def _stack(self, pointer: int) -> bytes:
        start = pointer - _AROUND
        end = next(
            area.end for area in procfs.read_areas(self.pid) if area.start <= pointer < area.end
        )
        return self.memory.read(start, min(end, pointer + _AROUND) - start)
