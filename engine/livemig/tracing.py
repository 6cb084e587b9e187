"""Threads of other processes under ptrace: stop them, look at them, let them go.

A tracer that dies leaves a tracee running with whatever registers it has at that instant. What is
done here to a thread of the application therefore leaves it, at each instant, with registers that
lead back to where it was (``frames`` of :mod:`livemig.sigframe`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from livemig.errors import InternalError, ProcessGone
from livemig.system import procfs, ptrace
from livemig.system.numbers import NR_RESTART_SYSCALL
from livemig.system.ptrace import Registers

_WALL = 0x40000000
_SLICE = 0.01  # seconds; bounds the wait where another thread took the SIGCHLD
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516
_RESTART_SAME = (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND)
_SIGNED = 1 << 63


@dataclass(frozen=True)
class Stop:
    """Why a thread stopped: the signal, and the ptrace event (0: the signal is to be delivered)."""

    signal: int
    event: int


def signed(value: int) -> int:
    """Return a register's 64 bits as a signed number."""
    return value - (1 << 64) if value & _SIGNED else value


@contextmanager
def telling_death(pid: int) -> Iterator[None]:
    """Raise ProcessGone where what is done to a process fails because it has ended."""
    try:
        yield
    except (ProcessLookupError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and _has_memory(pid):
            raise
        raise ProcessGone(f"process {pid} ended while it was worked on") from error


def _has_memory(pid: int) -> bool:
    try:
        return bool(procfs.read_areas(pid))
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_stop(tid: int, timeout: float) -> Stop:
    """Wait until a traced thread has stopped.

    SIGCHLD tells of it at once in a program whose threads all have it blocked.

    Raises ProcessGone where it ended (it is reaped, so that its parent sees it), and InternalError
    where it did not stop within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        while True:
            try:
                found, status = os.waitpid(tid, os.WNOHANG | _WALL)
            except ChildProcessError as error:
                raise ProcessGone(f"thread {tid} is not traced any more") from error
            if found:
                return _read_status(tid, status)
            left = deadline - time.monotonic()
            if left <= 0:
                raise InternalError(f"thread {tid} did not stop within {timeout} s")
            signal.sigtimedwait({signal.SIGCHLD}, min(left, _SLICE))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _read_status(tid: int, status: int) -> Stop:
    if os.WIFSTOPPED(status):
        return Stop(os.WSTOPSIG(status), status >> 16)
    how = (
        f"was killed by signal {os.WTERMSIG(status)}"
        if os.WIFSIGNALED(status)
        else f"ended with exit code {os.WEXITSTATUS(status)}"
    )
    raise ProcessGone(f"process {tid} {how}")


def restarted(registers: Registers) -> Registers:
    """Return the registers with which an interrupted system call is entered again.

    That is what the kernel does itself when a stopped thread goes on without a signal
    (arch/x86/kernel/signal.c, arch_do_signal_or_restart), but for calls that it continues by
    restart_syscall: those start over with their own arguments.
    """
    again = registers.copy()
    if signed(registers.orig_rax) >= 0:
        error = -signed(registers.rax)
        if error in _RESTART_SAME or error == ERESTART_RESTARTBLOCK:
            again.rax = registers.orig_rax
            again.rip = registers.rip - 2
    again.orig_rax = (1 << 64) - 1
    return again


class Tracee:
    """One traced thread.

    ``call`` remembers the number of the system call that the first stop interrupted: a thread that
    was stopped once shows restart_syscall from then on.
    """

    def __init__(self, tid: int, *, options: int = 0, timeout: float = 5.0) -> None:
        self.tid = tid
        self.timeout = timeout
        self._options = options | ptrace.O_TRACESYSGOOD | ptrace.O_SUSPEND_SECCOMP
        self._call: tuple[int, int, int] | None = None
        self.held_signals: list[int] = []

    def attach(self) -> None:
        """Attach without stopping the thread; raises ProcessGone, or OSError (EPERM)."""
        try:
            ptrace.seize(self.tid, self._options)
        except ProcessLookupError as error:
            raise ProcessGone(f"process {self.tid} is gone") from error

    def stop(self) -> Registers:
        """Stop the thread and return its registers, the interrupted call's true number restored."""
        self.request_stop()
        return self.await_stop()

    def request_stop(self) -> None:
        """Ask the thread to stop; one that is frozen does so when it is thawed."""
        ptrace.interrupt(self.tid)

    def await_stop(self) -> Registers:
        """Wait for the stop that was asked for; see ``stop``."""
        while True:
            stop = wait_stop(self.tid, self.timeout)
            if stop.event == ptrace.EVENT_STOP:
                break
            # A signal came first: deliver it, as without a tracer.
            ptrace.cont(self.tid, stop.signal)
        return self.true_registers()

    def true_registers(self) -> Registers:
        """Return the registers, with the number of the call that an earlier stop has hidden."""
        registers = ptrace.get_registers(self.tid)
        place = (registers.rip, registers.rsp)
        if signed(registers.orig_rax) < 0:
            self._call = None
        elif registers.orig_rax != NR_RESTART_SYSCALL:
            self._call = (registers.orig_rax, *place)
        elif self._call is not None and self._call[1:] == place:
            registers.orig_rax = self._call[0]
        return registers

    def wait(self) -> Stop:
        """Wait for the next stop."""
        return wait_stop(self.tid, self.timeout)

    def resume(self) -> None:
        """Let the stopped thread run, still traced."""
        ptrace.cont(self.tid)

    def detach(self) -> None:
        """Let go of the stopped thread; one that is gone already is no error.

        It is reaped then: its parent learns of its end only after its tracer.
        """
        try:
            ptrace.detach(self.tid)
        except ProcessLookupError:
            with suppress(ChildProcessError):
                os.waitpid(self.tid, os.WNOHANG | _WALL)
