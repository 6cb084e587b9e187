"""How a thread shares the CPU: sched_getattr(2), ioprio_get(2), affinity, autogroup.

All of it is read and set from outside, by thread ID.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct

from livemig.system.libc import syscall
from livemig.system.numbers import (
    NR_IOPRIO_GET,
    NR_IOPRIO_SET,
    NR_SCHED_GETATTR,
    NR_SCHED_SETATTR,
)
from livemig.system.procfs import read_text, write_text

POLICIES = {0: "OTHER", 1: "FIFO", 2: "RR", 3: "BATCH", 5: "IDLE", 6: "DEADLINE", 7: "EXT"}
FAIR = (0, 3, 5)
"""Policies whose runtime is a time slice: OTHER, BATCH, IDLE."""
_ATTR = struct.Struct("=IIQiIQQQII")  # struct sched_attr, linux/sched/types.h
_CLAMPS = 0x60  # SCHED_FLAG_UTIL_CLAMP_MIN | SCHED_FLAG_UTIL_CLAMP_MAX
_WHO_PROCESS = 1
_ONLINE = "/sys/devices/system/cpu/online"
_CGROUPS = "/sys/fs/cgroup"
_AUTOGROUP = re.compile(r"nice (-?\d+)")


Attributes = tuple[int, int, int, int, int, int, int, int, int]
"""policy, flags, nice, priority, runtime, deadline, period (ns), util_min, util_max."""


def attributes(tid: int) -> Attributes:
    """Return how the scheduler treats a thread (sched_getattr(2))."""
    buffer = ctypes.create_string_buffer(_ATTR.size)
    what = f"reading the scheduling of thread {tid}"
    syscall(NR_SCHED_GETATTR, tid, ctypes.byref(buffer), _ATTR.size, 0, what=what)
    _, *found = _ATTR.unpack(buffer.raw)
    policy, flags, nice, priority, runtime, deadline, period, low, high = found
    return policy, flags, nice, priority, runtime, deadline, period, low, high


def time_slice(tid: int = 0) -> int:
    """Return the time slice of a thread (ns), 0 under other policies and before Linux 6.12.

    From then on sched_getattr(2) tells it as the runtime (kernel/sched/syscalls.c, get_params). A
    thread that has asked for none has the kernel's own, as has ours, which is thread 0.
    """
    policy, _, _, _, runtime, *_ = attributes(tid)
    return runtime if policy in FAIR else 0


def set_attributes(tid: int, wanted: Attributes) -> None:
    """Let the scheduler treat a thread so (sched_setattr(2)); OSError where it refuses."""
    policy, flags, *rest = wanted
    flags &= ~_CLAMPS
    if wanted[-2:] != attributes(tid)[-2:]:
        flags |= _CLAMPS
    buffer = ctypes.create_string_buffer(_ATTR.pack(_ATTR.size, policy, flags, *rest))
    what = f"setting the scheduling of thread {tid}"
    syscall(NR_SCHED_SETATTR, tid, ctypes.byref(buffer), 0, what=what)


def io_priority(tid: int) -> int:
    """Return class and level of a thread's input and output (ioprio_get(2)), 0 where none."""
    return syscall(NR_IOPRIO_GET, _WHO_PROCESS, tid, what=f"reading the I/O priority of {tid}")


def set_io_priority(tid: int, value: int) -> None:
    """Set class and level of a thread's input and output (ioprio_set(2))."""
    what = f"setting the I/O priority of thread {tid}"
    syscall(NR_IOPRIO_SET, _WHO_PROCESS, tid, value, what=what)


def bound_cpus(tid: int) -> tuple[int, ...]:
    """Return the CPUs that a thread is bound to, none where it may use all that it could have."""
    cpus = os.sched_getaffinity(tid)
    if cpus == parse_cpus(read_text(_ONLINE)) or cpus == _cpuset(tid):
        return ()
    return tuple(sorted(cpus))


def _cpuset(tid: int) -> set[int]:
    """Return the CPUs that the control group of a thread gives it (cpuset(7))."""
    for line in read_text(f"/proc/{tid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuset" in controllers.split(","):
            place = f"{_CGROUPS}/cpuset/{path.strip('/')}/cpuset.effective_cpus"
        elif not controllers:
            place = f"{_CGROUPS}/{path.strip('/')}/cpuset.cpus.effective"
        else:
            continue
        if os.path.exists(place):
            return parse_cpus(read_text(place))
    return set()


def parse_cpus(text: str) -> set[int]:
    """Return the CPUs of a list as the kernel writes it: ``0-2,5``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return found


def autogroup(pid: int) -> int | None:
    """Return the nice value of a process's autogroup (sched(7)), None where there is none."""
    try:
        text = read_text(f"/proc/{pid}/autogroup")
    except OSError:  # a kernel without autogroups
        return None
    found = _AUTOGROUP.search(text)
    return int(found[1]) if found else None


def set_autogroup(pid: int, nice: int) -> None:
    """Set the nice value of a process's autogroup, which its whole session shares."""
    write_text(f"/proc/{pid}/autogroup", str(nice))
