"""Read what one stopped thread goes on with."""

from __future__ import annotations

from pathlib import Path

from livemig.infect import Loan
from livemig.model import Thread
from livemig.stub import Stub
from livemig.system import handles, procfs, ptrace
from livemig.system.numbers import NR_PRCTL, NR_SIGALTSTACK
from livemig.tracing import restarted

PR_GET_TIMERSLACK = 30
PR_GET_TID_ADDRESS = 40
ALTSTACK_SIZE = 24


def extract_thread(pid: int, loan: Loan, stub: Stub) -> Thread:
    """Return the state of a borrowed thread of process ``pid``."""
    tid = loan.tracee.tid
    table = stub.table()
    altstack, child_tid = table.room(ALTSTACK_SIZE), table.room(8)
    table.call("sigaltstack", NR_SIGALTSTACK, 0, altstack)
    table.call("prctl PR_GET_TID_ADDRESS", NR_PRCTL, PR_GET_TID_ADDRESS, child_tid)
    slack = table.call("prctl PR_GET_TIMERSLACK", NR_PRCTL, PR_GET_TIMERSLACK)
    results = stub.run(table)
    return Thread(
        tid=procfs.namespaced_id(pid, tid),
        name=Path(f"/proc/{pid}/task/{tid}/comm").read_bytes().rstrip(b"\n"),
        registers=bytes(restarted(loan.registers)),
        xstate=loan.xstate,
        blocked=loan.mask,
        pending=tuple(ptrace.pending_signals(tid, shared=False)),
        robust_list=handles.robust_list(tid),
        clear_child_tid=int.from_bytes(loan.memory.read(child_tid, 8), "little"),
        rseq=ptrace.get_rseq(tid),
        altstack=loan.memory.read(altstack, ALTSTACK_SIZE),
        timer_slack=results[slack],
    )
