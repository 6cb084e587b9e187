"""Read what one frozen process is made of."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress

import numpy as np

from livemig.errors import NotCarried
from livemig.extract.files import Descriptions, own_descriptors
from livemig.extract.kept import Kept
from livemig.extract.keys import AllocatedKeys
from livemig.extract.mappings import refuse_mappings
from livemig.extract.segments import LocalDescriptors
from livemig.extract.threads import extract_thread, pending_signals, refuse_stopped, stopped
from livemig.extract.timers import list_timers, read_timers
from livemig.infect import Loan
from livemig.membarrier import Registrations
from livemig.model import AddressSpace, Credentials, Process
from livemig.settings import Reading
from livemig.stub import Stub, Table
from livemig.system import procfs, ptrace, sched
from livemig.system.memory import PAGE_SIZE
from livemig.system.numbers import (
    NR_BRK,
    NR_GETITIMER,
    NR_MSYNC,
    NR_PRCTL,
    NR_PRLIMIT64,
    NR_RT_SIGACTION,
)

PR_GET_DUMPABLE, PR_GET_SECUREBITS = 3, 27
SIGNALS = range(1, 65)
ACTION_SIZE, TIMER_SIZE, LIMIT_SIZE = 32, 32, 16
_UNCATCHABLE = (9, 19)
_LIMITS = 16
_MS_INVALIDATE = 2
_MCL_FUTURE, _MCL_ONFAULT = 2, 4
_NO_TAGS = "0xffffffffffffffff"  # arch/x86/include/asm/mmu_context.h, mm_reset_untag_mask
_PF_EXITING = 0x4  # linux/sched.h
_BPF_RETURN = 0x06  # BPF_RET | BPF_K
_BPF = np.dtype([("code", "<u2"), ("jt", "u1"), ("jf", "u1"), ("k", "<u4")])  # sock_filter
_SECCOMP_ACTION, _SECCOMP_USER_NOTIF = np.uint32(0xFFFF0000), 0x7FC00000


def refuse_process(pid: int, *, mappings: bool = True, tracer: int = 0) -> None:
    """Raise NotCarried for what this version does not carry of a process.

    Looking at ``mappings`` takes milliseconds where there is much memory. The thread ``tracer`` may
    trace it, nobody else.
    """
    status = procfs.read_status(pid)
    if (threads := len(procfs.threads(pid))) > 1:
        raise NotCarried(
            f"process {pid} ({status['Name']}) has {threads} threads",
            hint="this version moves containers of one process with one thread",
        )
    if (other := int(status["TracerPid"])) not in (0, tracer):
        raise NotCarried(f"process {pid} is traced by process {other}", hint="end the tracer")
    if is_stopped(pid):
        raise stopped(pid)
    if int(status.get("untag_mask", _NO_TAGS), 16) != int(_NO_TAGS, 16):
        raise NotCarried(
            f"process {pid} has the CPU ignore bits of its addresses (ARCH_ENABLE_TAGGED_ADDR)",
            hint="start its program without Linear Address Masking",
        )
    _refuse_ended_children(pid)
    if procfs.cpu_time_is_limited(pid):
        raise NotCarried(
            f"process {pid} has a limit of its CPU time (RLIMIT_CPU), and what it used of it "
            "cannot be carried",
            hint="start it without that limit (`--ulimit cpu`, `ulimit -t`)",
        )
    list_timers(pid)
    if os.readlink(f"/proc/{pid}/root") != "/":
        raise NotCarried(f"process {pid} has changed its root directory (chroot)")
    if procfs.is_deleted(os.readlink(f"/proc/{pid}/cwd")):
        raise NotCarried(
            f"process {pid} is in a directory that was removed", hint="move it when it has left it"
        )
    _refuse_namespaces(pid)
    if mappings:
        refuse_mappings(pid)


def _refuse_namespaces(pid: int) -> None:
    """Raise NotCarried for a process that has left a namespace of its container, as far as is told.

    Its user namespace has to be ours: in another one it has all capabilities there, which would be
    those of the host here.
    """
    pairs = [(f"/proc/{pid}/ns/user", "/proc/self/ns/user", "user")]
    for kind in ("pid", "time"):
        own = f"/proc/{pid}/ns/{kind}"
        pairs.append((f"{own}_for_children", own, kind))
    for there, here, kind in pairs:
        if _identity(there) != _identity(here):
            raise NotCarried(
                f"process {pid} has made a {kind} namespace of its own (unshare(2))",
                hint="start its program without one",
            )


def _identity(path: str) -> tuple[int, int]:
    """Return what tells a namespace from others; a namespace of children without one is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if "_for_children" not in path:
            raise
        return 0, 0
    return status.st_dev, status.st_ino


def _refuse_ended_children(pid: int) -> None:
    """Raise NotCarried for a child whose end the process has not taken note of.

    No cgroup shows it any more, from just before it is a zombie (kernel/exit.c, do_exit).
    """
    for child in procfs.children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            _, name, state, *_, flags = procfs.read_stat(child)[:9]
            if int(flags) & _PF_EXITING and state != "X":
                raise NotCarried(
                    f"process {pid} has a child that has ended, and that it has not waited for "
                    f"(wait(2)): process {child} ({name})",
                    hint="move it when it has; a program that never does cannot be moved",
                )


def is_stopped(pid: int) -> bool:
    """Tell whether a signal has stopped a process that nobody traces.

    In the freezer of cgroup v1 it shows as asleep, and whoever attaches to it waits until it is
    thawed (kernel/ptrace.c, ptrace_attach): so this has to be known before.
    """
    state = procfs.read_status(pid)["State"]
    frozen = state.startswith("D") and _read(pid, "wchan").startswith("do_signal_stop")
    return frozen or state.startswith("T")


def extract_process(
    pid: int, parent: int, loan: Loan, stub: Stub, descriptions: Descriptions
) -> Process:
    """Return everything but the pages of frozen process ``pid``.

    ``loan`` is its borrowed thread, ``stub`` the stub within. Raises NotCarried, ProcessGone.
    """
    # First, because each table takes the place of the one before, with the buffers that it filled.
    # The timers before the signals that wait: of one that shows no time left the signal is there.
    timers = read_timers(stub, list_timers(pid))
    threads = (extract_thread(pid, loan, stub),)
    descriptors = own_descriptors(pid, descriptions, stub)
    table = stub.table()
    actions = [table.room(ACTION_SIZE) for _ in SIGNALS]
    intervals = [table.room(TIMER_SIZE) for _ in range(3)]
    limits = [table.room(LIMIT_SIZE) for _ in range(_LIMITS)]
    settings, locks = Reading(table), _FutureLocks(table, stub)
    keys, local = AllocatedKeys(table), LocalDescriptors(table)
    kept, barriers = Kept(table), Registrations(table)
    for number, place in zip(SIGNALS, actions, strict=True):
        if number not in _UNCATCHABLE:
            table.call(f"rt_sigaction {number}", NR_RT_SIGACTION, number, 0, place, 8)
    for which, place in enumerate(intervals):
        table.call(f"getitimer {which}", NR_GETITIMER, which, place)
    for which, place in enumerate(limits):
        table.call(f"prlimit64 {which}", NR_PRLIMIT64, 0, which, 0, place)
    dumpable = table.call("prctl PR_GET_DUMPABLE", NR_PRCTL, PR_GET_DUMPABLE)
    securebits = table.call("prctl PR_GET_SECUREBITS", NR_PRCTL, PR_GET_SECUREBITS)
    brk = table.call("brk", NR_BRK, 0)
    results = stub.run(table)
    keys.refuse(pid, results)
    local.refuse(pid, results)
    kept.refuse(pid, results, stub.memory)
    read = stub.filled(table)
    status = procfs.read_status(pid)
    refuse_stopped(pid, loan.tracee)
    tracee = loan.tracee.tid
    return Process(
        pid=procfs.innermost_id(status),
        parent=parent,
        threads=threads,
        space=_address_space(pid, results[brk]),
        credentials=_credentials(pid, status, results[dumpable], results[securebits]),
        actions=tuple(read(place, ACTION_SIZE) for place in actions),
        pending=pending_signals(tracee, status["ShdPnd"], shared=True),
        interval_timers=tuple(read(place, TIMER_SIZE) for place in intervals),
        timers=timers,
        limits=tuple(_limit(read(place, LIMIT_SIZE)) for place in limits),
        directory=os.readlink(f"/proc/{pid}/cwd"),
        umask=int(status["Umask"], 8),
        personality=int(_read(pid, "personality"), 16),
        oom_score_adj=int(_read(pid, "oom_score_adj")),
        coredump_filter=int(_read(pid, "coredump_filter"), 16),
        autogroup=sched.autogroup(pid),
        settings=settings.values(results, stub.memory),
        descriptors=descriptors,
        future_locks=locks.flags(pid, results),
        membarrier=barriers.commands(results),
    )


class _FutureLocks:
    """The call that tells whether what is mapped is locked (mlockall(2)), as the stub then is.

    msync(2) refuses to invalidate locked memory, and does nothing else to anonymous memory.
    """

    def __init__(self, table: Table, stub: Stub) -> None:
        self._base = stub.base
        arguments = (stub.base, PAGE_SIZE, _MS_INVALIDATE)
        self._call = table.call("msync", NR_MSYNC, *arguments, may_fail=True)

    def flags(self, pid: int, results: list[int]) -> int:
        if results[self._call] != -errno.EBUSY:
            return 0
        flags = procfs.read_area_details(pid)[self._base].flags
        return _MCL_FUTURE | (_MCL_ONFAULT if "lf" in flags else 0)


def _limit(found: bytes) -> tuple[int, int]:
    """Return a ``struct rlimit64`` as the resource module has it, where -1 is no limit."""
    soft, hard = struct.unpack("=qq", found)
    return soft, hard


def _read(pid: int, name: str) -> str:
    return procfs.read_text(f"/proc/{pid}/{name}").strip()


def _address_space(pid: int, brk: int) -> AddressSpace:
    # Numbers as in proc(5), fields of /proc/PID/stat.
    fields = [int(field) if field.lstrip("-").isdigit() else 0 for field in procfs.read_stat(pid)]
    return AddressSpace(
        start_code=fields[25],
        end_code=fields[26],
        start_stack=fields[27],
        start_data=fields[44],
        end_data=fields[45],
        start_brk=fields[46],
        brk=brk,
        arg_start=fields[47],
        arg_end=fields[48],
        env_start=fields[49],
        env_end=fields[50],
        auxv=procfs.read_bytes(f"/proc/{pid}/auxv"),
        exe=os.readlink(f"/proc/{pid}/exe"),
    )


def _credentials(pid: int, status: dict[str, str], dumpable: int, securebits: int) -> Credentials:
    filters = seccomp_filters(pid) if status["Seccomp"] == "2" else ()
    refuse_filters(pid, filters)
    uids, gids = (tuple(int(word) for word in status[key].split()) for key in ("Uid", "Gid"))
    return Credentials(
        uids=(uids[0], uids[1], uids[2], uids[3]),
        gids=(gids[0], gids[1], gids[2], gids[3]),
        groups=tuple(int(word) for word in status["Groups"].split()),
        inheritable=int(status["CapInh"], 16),
        permitted=int(status["CapPrm"], 16),
        effective=int(status["CapEff"], 16),
        bounding=int(status["CapBnd"], 16),
        ambient=int(status["CapAmb"], 16),
        securebits=securebits,
        no_new_privs=status["NoNewPrivs"] == "1",
        dumpable=dumpable,
        seccomp_mode=int(status["Seccomp"]),
        seccomp_filters=filters,
        seccomp_flags=tuple(ptrace.seccomp_flags(pid, index) for index in range(len(filters))),
        lsm=lsm_label(pid),
    )


def seccomp_filters(tid: int) -> tuple[bytes, ...]:
    """Return the seccomp filters of a stopped traced thread, the oldest first."""
    filters: list[bytes] = []
    while (program := ptrace.seccomp_filter(tid, len(filters))) is not None:
        filters.append(program)
    return tuple(filters)


def refuse_filters(pid: int, filters: tuple[bytes, ...]) -> None:
    """Raise NotCarried for a filter that asks another program (seccomp_unotify(2)).

    Which one that is, the kernel does not tell.
    """
    for program in filters:
        code = np.frombuffer(program, _BPF)
        returned = code["k"][code["code"] == _BPF_RETURN]
        if (returned & _SECCOMP_ACTION == _SECCOMP_USER_NOTIF).any():
            raise NotCarried(
                f"process {pid} has a seccomp filter that asks another program "
                "(SECCOMP_RET_USER_NOTIF)",
                hint="start the container without that filter",
            )


def lsm_label(pid: int) -> str:
    """Return what a security module (AppArmor, SELinux) confines a process by, if one does."""
    try:
        return procfs.read_text(f"/proc/{pid}/attr/current").rstrip("\0\n")
    except OSError:  # no security module that labels processes
        return ""
