"""The one place that speaks to the stub: put it into a process, run tables, take it out."""

from __future__ import annotations

import signal
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from livemig.errors import InternalError
from livemig.stub import blob
from livemig.stub.table import BUFFERS_SIZE, CALLS_SIZE, Table
from livemig.system import ptrace
from livemig.system.memory import PAGE_SIZE, Memory
from livemig.system.numbers import NR_TGKILL
from livemig.tracing import StillRuns, Stop, Tracee

STACK_SIZE = 64 << 10
SIZE = PAGE_SIZE + CALLS_SIZE + BUFFERS_SIZE + STACK_SIZE
ALL_SIGNALS = (1 << 64) - 1
RUN_LIMIT = 100.0
"""Seconds that a table may take: its calls may fill, lock or free all of a process's memory. The
other side waits a little longer for an answer, and hears by name what did not end."""
_SI_USER, _SI_TKILL = 0, -6
# What the processor, or the kernel for it, raises within a program (signal(7)). All others that the
# stub sees were sent, and these cannot be: they are blocked.
_FAULTS = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
    signal.SIGSYS,
)
# Ignored by a process that has neither a handler nor a tracer, so that a stub whose tracer has died
# goes on (kernel/signal.c, sig_kernel_ignore). SIGCONT would be one more, but it lets a stopped
# process run, and takes pending stops away.
END_SIGNALS = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)


class StubCrashed(InternalError):
    """The thread that ran the stub got a fault: its process is broken."""


class Stub:
    """The stub at ``base`` of a process, run by one of its stopped threads.

    The mapping (SIZE bytes: one executable page, the rest writable) must be there; ``install``
    fills it. ``frame`` is the address of a signal frame that leads back, 0 where there is no way
    back. While a table runs, every signal but ``end`` is blocked.
    """

    def __init__(
        self, tracee: Tracee, memory: Memory, base: int, *, end: int = signal.SIGURG, frame: int = 0
    ) -> None:
        self.tracee = tracee
        self.memory = memory
        self.base = base
        self.end = end
        self.frame = frame
        self.limit = RUN_LIMIT
        self._running = self.table()

    @property
    def stack(self) -> int:
        """The address of the stack's lowest byte; frames lie there, calls use the top."""
        return self.base + PAGE_SIZE + CALLS_SIZE + BUFFERS_SIZE

    def install(self) -> None:
        """Write the stub's code into its page."""
        self.memory.write(self.base, blob.code()[0])

    def table(self) -> Table:
        """Return an empty table for this place."""
        return Table(self.base + PAGE_SIZE)

    def run(self, table: Table) -> list[int]:
        """Run a table and return the results; raises CallFailed, ProcessGone, and as ``finish``."""
        self.start(table)
        self.finish()
        return self.results(table)

    def results(self, table: Table) -> list[int]:
        """Return the results of a table that has run."""
        return table.decode(self.memory.read(table.base, table.size()))

    def filled(self, table: Table) -> Callable[[int, int], bytes]:
        """Return a reader (address, length) of the buffers of a table that has run.

        All of them are read now, at once: one by one they take a while.
        """
        start, size = table.buffers()
        data = self.memory.read(start, size)
        return lambda address, length: data[address - start : address - start + length]

    def start(self, table: Table) -> None:
        """Let the thread, which is stopped, enter the table."""
        self._running = table
        for address, data in table.encode(self.frame, self.end):
            self.memory.write(address, data)
        registers = ptrace.get_registers(self.tracee.tid)
        registers.rip = self.base + blob.code()[1]
        registers.rdi = table.base
        registers.rsp = self.base + SIZE - 16
        registers.orig_rax = (1 << 64) - 1
        registers.eflags &= ~0x400  # DF, as the ABI wants it
        ptrace.set_registers(self.tracee.tid, registers)
        ptrace.set_sigmask(self.tracee.tid, ALL_SIGNALS & ~(1 << (self.end - 1)))
        self.tracee.resume()

    def finish(self) -> None:
        """Wait until the table has run; the thread is stopped then.

        Where it has not within ``limit`` seconds, raises InternalError that names the call; that is
        StillRuns where the thread cannot even be stopped in it.
        """
        tid, deadline = self.tracee.tid, time.monotonic() + self.limit
        with ExitStack() as later:
            while True:
                stop = self._await_stop(deadline)
                if stop.event == 0 and stop.signal == self.end:
                    if self._is_own(ptrace.get_siginfo(tid)):
                        return
                elif stop.event == ptrace.EVENT_STOP:
                    pass  # a group stop, or an interrupt that came late
                elif stop.signal in _FAULTS:
                    raise self._crashed(stop.signal)
                else:
                    later.callback(self.tracee.held_signals.append, stop.signal)
                ptrace.cont(tid)

    def _await_stop(self, deadline: float) -> Stop:
        with suppress(StillRuns):
            # Stops that come without end are no reason to wait longer.
            if (left := deadline - time.monotonic()) > 0:
                return self.tracee.wait(left)
        table = self._running
        call = table.under_way(self.memory.read(table.base, table.size()))
        problem = f"process {self.memory.pid}: {call} did not end within {self.limit:g} s"
        try:
            ptrace.interrupt(self.tracee.tid)
            self.tracee.wait()
        except StillRuns as error:
            raise StillRuns(problem) from error
        raise InternalError(problem)

    def _crashed(self, number: int) -> StubCrashed:
        tid = self.tracee.tid
        place = ptrace.get_registers(tid).rip
        name = signal.Signals(number).name
        return StubCrashed(f"the stub crashed in thread {tid} at {place:#x} ({name})")

    def _is_own(self, info: bytes) -> bool:
        """Tell whether the stub's tgkill to itself sent a signal.

        Where the process may queue none (RLIMIT_SIGPENDING), it comes without its siginfo.
        """
        code, sender = struct.unpack_from("=8xi4xi", info)
        if code == _SI_TKILL:
            return True
        if code != _SI_USER or sender:
            return False
        return bool(ptrace.get_registers(self.tracee.tid).orig_rax == NR_TGKILL)
