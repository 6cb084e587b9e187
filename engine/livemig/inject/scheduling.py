"""Let a thread share the CPU as it did; from outside, by thread ID."""

from __future__ import annotations

import os

from livemig.errors import NotCarried
from livemig.extract.scheduling import read_scheduling
from livemig.model import Scheduling
from livemig.system import sched


def set_scheduling(tid: int, wanted: Scheduling) -> None:
    """Give a thread its scheduling; NotCarried, naming it, where this host does not allow it."""
    present = read_scheduling(tid)
    if present == wanted:
        return
    _bind(tid, wanted)
    policy = sched.POLICIES.get(wanted.policy, str(wanted.policy))
    try:
        os.setpriority(os.PRIO_PROCESS, tid, wanted.nice)
        sched.set_attributes(
            tid,
            (
                wanted.policy,
                wanted.flags,
                wanted.nice,
                wanted.priority,
                wanted.runtime,
                wanted.deadline,
                wanted.period,
                wanted.util_min,
                wanted.util_max,
            ),
        )
        if present.io_priority != wanted.io_priority:
            sched.set_io_priority(tid, wanted.io_priority)
    except OSError as error:
        raise NotCarried(
            f"thread {tid}: scheduling policy {policy}, priority {wanted.priority}, nice "
            f"{wanted.nice}, I/O priority {wanted.io_priority:#x} is refused on the target: "
            f"{error.strerror}",
            hint="the target must allow what the source allowed (real-time budget of its control "
            "groups, CAP_SYS_NICE), or the process take another policy",
        ) from error
    slice_ns = wanted.runtime if wanted.policy in sched.FAIR else 0
    if slice_ns and sched.time_slice(tid) != slice_ns:
        raise NotCarried(
            f"thread {tid} has asked for a time slice of {slice_ns} ns, which the target's kernel "
            "does not know",
            hint="move it to a host with Linux 6.12 or later, or let it take the usual one",
        )


def _bind(tid: int, wanted: Scheduling) -> None:
    """Bind a thread to its CPUs; one that could use all may use all that there are here."""
    if not wanted.cpus:
        return
    missing = sorted(set(wanted.cpus) - os.sched_getaffinity(tid))
    if missing:
        raise NotCarried(
            f"thread {tid} is bound to CPUs {_listed(wanted.cpus)}, of which the container has not "
            f"{_listed(missing)} on the target",
            hint="bind it to CPUs that both hosts have (taskset), or to none",
        )
    os.sched_setaffinity(tid, wanted.cpus)


def _listed(cpus: tuple[int, ...] | list[int]) -> str:
    return ",".join(map(str, cpus))
