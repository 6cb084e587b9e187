"""Read what one stopped thread goes on with."""

from __future__ import annotations

import signal
import struct
import time

from livemig.calls import NEVER
from livemig.errors import NotCarried
from livemig.extract.scheduling import read_scheduling
from livemig.extract.segments import refuse_thread_areas
from livemig.infect import Loan
from livemig.model import Deadline, Thread
from livemig.sigframe import holds_tiles
from livemig.stub import Stub
from livemig.system import handles, procfs, ptrace
from livemig.system.numbers import NR_PRCTL, NR_RESTART_SYSCALL, NR_SIGALTSTACK
from livemig.tracing import Tracee

PR_GET_TIMERSLACK = 30
PR_GET_TID_ADDRESS = 40
ALTSTACK_SIZE = 24


def refuse_io_ports(pid: int, tid: int) -> None:
    """Raise NotCarried for a stopped thread that may use I/O ports."""
    if ptrace.has_io_ports(tid):
        raise NotCarried(
            f"process {pid} may use I/O ports (ioperm(2)), which cannot be carried",
            hint="move it when it has given them up",
        )


def extract_thread(pid: int, loan: Loan, stub: Stub) -> Thread:
    """Return the state of a borrowed thread of process ``pid``; raises NotCarried."""
    tid = loan.tracee.tid
    refuse_stopped(pid, loan.tracee)
    if loan.registers.orig_rax == NR_RESTART_SYSCALL:
        raise NotCarried(
            f"thread {tid} waits in a system call that another stop had interrupted before, and "
            "nothing tells which",
            hint="move it when it is not waiting for a given time, or on a kernel with wchan",
        )
    if holds_tiles(loan.xstate):
        raise NotCarried(
            f"process {pid} holds data in AMX's tiles, which cannot be carried",
            hint="move it when it does not compute with them",
        )
    refuse_thread_areas(pid, tid)
    refuse_io_ports(pid, tid)
    table = stub.table()
    altstack, child_tid = table.room(ALTSTACK_SIZE), table.room(8)
    table.call("sigaltstack", NR_SIGALTSTACK, 0, altstack)
    table.call("prctl PR_GET_TID_ADDRESS", NR_PRCTL, PR_GET_TID_ADDRESS, child_tid)
    slack = table.call("prctl PR_GET_TIMERSLACK", NR_PRCTL, PR_GET_TIMERSLACK)
    results = stub.run(table)
    status = procfs.read_status(pid, tid)
    return Thread(
        tid=procfs.innermost_id(status),
        name=procfs.read_bytes(f"/proc/{pid}/task/{tid}/comm").rstrip(b"\n"),
        registers=bytes(loan.registers),
        xstate=loan.xstate,
        blocked=loan.mask,
        pending=pending_signals(tid, status["SigPnd"], shared=False),
        robust_list=handles.robust_list(tid),
        clear_child_tid=int.from_bytes(loan.memory.read(child_tid, 8), "little"),
        rseq=ptrace.get_rseq(tid),
        altstack=loan.memory.read(altstack, ALTSTACK_SIZE),
        timer_slack=results[slack],
        scheduling=read_scheduling(tid),
        deadline=_deadline(pid, loan),
    )


def refuse_stopped(pid: int, tracee: Tracee) -> None:
    """Raise NotCarried where a signal has stopped the process, or came while it is borrowed.

    SIGSTOP cannot be blocked: it is held back then, and delivered when the thread is given back.
    """
    if tracee.job_stop or signal.SIGSTOP in tracee.held_signals:
        raise stopped(pid)


def stopped(pid: int) -> NotCarried:
    """Return what to raise for a process that was stopped by a signal."""
    return NotCarried(
        f"process {pid} was stopped by a signal (SIGSTOP), which cannot be carried",
        hint="let it go on (`docker kill --signal CONT`), and move again",
    )


def pending_signals(tid: int, mask: str, *, shared: bool) -> tuple[bytes, ...]:
    """Return the siginfo of every signal that waits, ``mask`` being those of /proc/PID/status.

    One that came when the queue was full has no siginfo: its reader gets one that tells nothing
    (kernel/signal.c, collect_signal), and so do we.
    """
    found = ptrace.pending_signals(tid, shared=shared)
    queued = {int.from_bytes(info[:4], "little") for info in found}
    waiting = int(mask, 16)
    bare = [n for n in range(1, 65) if waiting >> (n - 1) & 1 and n not in queued]
    found += [struct.pack("=i", number).ljust(ptrace.SIGINFO_SIZE, b"\0") for number in bare]
    return tuple(found)


def _deadline(pid: int, loan: Loan) -> Deadline | None:
    """Return until when the thread waits, as the clocks of its time namespace have it."""
    call = loan.tracee.call
    if call.timed is None or call.deadline is None:
        return None
    monotonic, boottime = procfs.clock_offsets(pid)
    clock, deadline = call.timed.clock, call.deadline
    if clock == time.CLOCK_TAI:  # which no namespace has, and two hosts have their own of
        clock = time.CLOCK_MONOTONIC
        deadline += time.clock_gettime_ns(clock) - time.clock_gettime_ns(time.CLOCK_TAI)
    offset = boottime if clock == time.CLOCK_BOOTTIME else monotonic
    return Deadline(clock, min(deadline + offset, NEVER))
