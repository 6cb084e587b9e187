"""Read how a thread shares the CPU."""

from __future__ import annotations

import os
from dataclasses import replace

from livemig.model import Scheduling
from livemig.system import sched


def read_scheduling(tid: int) -> Scheduling:
    """Return the scheduling of a thread, read from outside.

    The time slice that it has where it asked for none is the kernel's, and not the thread's: 0.
    """
    policy, flags, _, *rest = sched.attributes(tid)
    priority, runtime, deadline, period, low, high = rest
    found = Scheduling(
        policy=policy,
        flags=flags,
        # sched_getattr(2) does not tell it of a real-time thread, which may have one all the same.
        nice=os.getpriority(os.PRIO_PROCESS, tid),
        priority=priority,
        runtime=runtime,
        deadline=deadline,
        period=period,
        util_min=low,
        util_max=high,
        io_priority=sched.io_priority(tid),
        cpus=sched.bound_cpus(tid),
    )
    return shown(found)


def shown(scheduling: Scheduling) -> Scheduling:
    """Return what is read here of a thread with this scheduling, whoever asked for it where.

    The time slice of this host's kernel is none that a thread has to ask for.
    """
    usual = scheduling.policy in sched.FAIR and scheduling.runtime == sched.time_slice()
    return replace(scheduling, runtime=0) if usual else scheduling
