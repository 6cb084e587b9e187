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
from livemig.interrupted import Interruption
from livemig.system import procfs, ptrace
from livemig.system.ptrace import Registers

_WALL = 0x40000000
_SLICE = 0.01  # seconds; bounds the wait where another thread took the SIGCHLD


@dataclass(frozen=True)
class Stop:
    """Why a thread stopped: the signal, and the ptrace event (0: the signal is to be delivered)."""

    signal: int
    event: int


class StillRuns(InternalError):
    """A traced thread did not stop in time."""


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

    Raises ProcessGone where it ended (it is reaped, so that its parent sees it), and StillRuns
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
                raise StillRuns(f"thread {tid} did not stop within {timeout:g} s")
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


class Tracee:
    """One traced thread.

    ``call`` is what is known of the system call that a stop has interrupted: a thread that was
    stopped once shows restart_syscall from then on. ``timeout`` are the seconds that it has to stop
    when it is asked to; it is not for what it is made to do. ``job_stop`` is the signal by which
    its process had been stopped anyway when it stopped last, 0 for none: let go, it stays stopped.
    """

    def __init__(self, tid: int, *, options: int = 0, timeout: float = 5.0) -> None:
        self.tid = tid
        self.timeout = timeout
        self._options = options | ptrace.O_TRACESYSGOOD | ptrace.O_SUSPEND_SECCOMP
        self.call = Interruption(tid)
        self._looked = False
        self.held_signals: list[int] = []
        self.job_stop = 0

    def attach(self) -> None:
        """Attach without stopping the thread; raises ProcessGone, or OSError (EPERM)."""
        try:
            ptrace.seize(self.tid, self._options)
        except (ProcessLookupError, PermissionError) as error:
            if isinstance(error, PermissionError) and _has_memory(self.tid):
                raise
            raise ProcessGone(f"process {self.tid} is gone") from error

    def stop(self) -> Registers:
        """Stop the thread and return its registers, the interrupted call's true number restored."""
        self.request_stop()
        return self.await_stop()

    def look(self) -> None:
        """Look at what the thread sleeps in, as long as nobody has asked it to stop or freeze."""
        self.call.look()
        self._looked = True

    def request_stop(self) -> None:
        """Ask the thread to stop; one that is frozen does so when it is thawed."""
        if not self._looked:
            self.look()
        self._looked = False
        ptrace.interrupt(self.tid)

    def await_stop(self) -> Registers:
        """Wait for the stop that was asked for; see ``stop``."""
        while True:
            stop = wait_stop(self.tid, self.timeout)
            if stop.event == ptrace.EVENT_STOP:
                break
            # A signal came first: deliver it, as without a tracer.
            ptrace.cont(self.tid, stop.signal)
        # kernel/signal.c, do_jobctl_trap
        self.job_stop = 0 if stop.signal == signal.SIGTRAP else stop.signal
        registers = ptrace.get_registers(self.tid)
        going_on = self.call.stopped(registers)
        if (going_on.rax, going_on.rip) != (registers.rax, registers.rip):
            ptrace.set_registers(self.tid, going_on)
        return going_on

    def true_registers(self) -> Registers:
        """Return the registers, with the number of the call that an earlier stop has hidden."""
        return self.call.true(ptrace.get_registers(self.tid))

    def enter_signal_stop(self) -> None:
        """Bring a stopped thread to where the kernel looks at an interrupted call's result.

        It does so only where a thread leaves a signal stop. Signals that come are held back.
        """
        ptrace.interrupt(self.tid)
        while True:
            ptrace.cont(self.tid)
            stop = self.wait()
            if stop.event == ptrace.EVENT_STOP:
                return
            self.held_signals.append(stop.signal)

    def wait(self, timeout: float | None = None) -> Stop:
        """Wait for the next stop, ``timeout`` seconds long, or as long as a stop may take."""
        return wait_stop(self.tid, self.timeout if timeout is None else timeout)

    def resume(self) -> None:
        """Let the stopped thread run, still traced."""
        ptrace.cont(self.tid)

    def detach(self) -> None:
        """Let go of the stopped thread; one that is gone already is no error.

        It is reaped then: its parent learns of its end only after its tracer. One that has not
        stopped yet is waited for: traced, it would stop later, and nobody would let it go on. Where
        it does not stop even now, our own end lets it go.
        """
        try:
            self._let_go()
        except ProcessLookupError:
            with suppress(ProcessLookupError, ProcessGone, StillRuns):
                self._let_go_late()

    def _let_go(self, number: int = 0) -> None:
        self._renew()
        ptrace.detach(self.tid, number)

    def _let_go_late(self) -> None:
        with suppress(ProcessLookupError):  # it has ended, which waiting will tell
            ptrace.interrupt(self.tid)
        stop = self.wait()
        delivered = stop.event == 0 and stop.signal != ptrace.SYSCALL_STOP
        self._let_go(stop.signal if delivered else 0)

    def _renew(self) -> None:
        """Let a call that waits do so for the time that is left by now."""
        self.call.refresh()
        registers = ptrace.get_registers(self.tid)
        with suppress(FileNotFoundError):  # it has ended meanwhile, which detaching will tell
            if (renewed := self.call.renewed(registers)) is not registers:
                ptrace.set_registers(self.tid, renewed)
