"""Rebuild a process from what was extracted, in the held process; its pages are there already.

The steps are in an order in which each still has the rights that it needs: descriptors, address
space, clocks, signals, and who the process is last of all.
"""

from __future__ import annotations

import os
import resource
import struct
import time
from contextlib import ExitStack

from livemig import xstate
from livemig.errors import NotCarried, StateMismatch
from livemig.extract.process import SIGNALS, seccomp_filters
from livemig.infect import end_signal
from livemig.inject.advice import lock_future, set_guards
from livemig.inject.files import install_descriptors, opened_descriptions
from livemig.inject.held import CLONE_NEWTIME, Held
from livemig.inject.terminal import settle_terminal
from livemig.inject.timers import arm_timers, create_timers, queue_signals
from livemig.membarrier import add_registrations
from livemig.model import Clocks, Credentials, Image, Process, Thread
from livemig.settings import Reading, add_changes
from livemig.stub import Table
from livemig.system import handles, procfs, ptrace, sched
from livemig.system.numbers import (
    NR_CAPSET,
    NR_CLOSE,
    NR_FCHDIR,
    NR_PERSONALITY,
    NR_PRCTL,
    NR_RSEQ,
    NR_RT_SIGACTION,
    NR_RT_SIGQUEUEINFO,
    NR_RT_TGSIGQUEUEINFO,
    NR_SECCOMP,
    NR_SET_ROBUST_LIST,
    NR_SET_TID_ADDRESS,
    NR_SETFSGID,
    NR_SETFSUID,
    NR_SETGROUPS,
    NR_SETITIMER,
    NR_SETNS,
    NR_SETRESGID,
    NR_SETRESUID,
    NR_SIGALTSTACK,
    NR_UMASK,
)
from livemig.system.ptrace import Registers
from livemig.terminal import Pty

PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME = 3, 4, 8, 15
PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_TIMERSLACK, PR_SET_MM = 24, 28, 29, 35
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_SET_MM_MAP = 14
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
_CAP_VERSION_3 = 0x20080522
_SS_DISABLE = 2
_SECCOMP_SET_MODE_STRICT, _SECCOMP_SET_MODE_FILTER = 0, 1
# What a filter does to speculation is a setting of the thread, which is carried as one.
_SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
_STRICT = 1
_ROOT_ONLY = 2  # dumpable: /proc/sys/fs/suid_dumpable
_ITIMER_REAL = 0
_BILLION = 1_000_000_000


def rebuild(
    held: Held,
    process: Process,
    image: Image,
    root: int,
    *,
    filters: int = 0,
    terminal: Pty | None = None,
) -> None:
    """Turn ``held`` into ``process``, but for its registers; ``root`` is the container's root.

    The first ``filters`` seccomp filters of the process are in force already; ``terminal`` is the
    one that the held process has, if it has one.
    Raises OSError that names the failing step, NotCarried, StateMismatch.
    """
    with opened_descriptions(held, image, root, terminal) as opened:
        install_descriptors(held, process, image, opened)
    if image.terminal is not None:
        settle_terminal(held, image.terminal)
    _set_places(held, process, image, root)
    _check_clocks(held, image.clocks)
    held.stub.end = end_signal(_pending(process))
    create_timers(held, process.timers)
    arm_timers(held, process)
    _set_signals(held, process)
    for thread in process.threads:
        _set_thread(held, process, thread)
    _set_limits(held.pid, process)
    _set_outside(held.pid, process)
    set_guards(held, process.guards)
    lock_future(held, process.future_locks)
    _set_identity(held, process, filters)


def _set_places(held: Held, process: Process, image: Image, root: int) -> None:
    with ExitStack() as close:
        directory = handles.open_in_root(root, process.directory, os.O_PATH | os.O_DIRECTORY)
        close.callback(os.close, directory)
        exe = handles.open_file_in_root(root, process.space.exe, os.O_RDONLY)
        close.callback(os.close, exe)
        clocks = os.open(f"/proc/{held.pid}/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        close.callback(os.close, clocks)
        _set_offsets(held.pid, image.clocks)
        table = held.stub.table()
        _add_places(table, process, held.pass_descriptors(table, [directory, exe, clocks]))
        held.stub.run(table)


def _add_places(table: Table, process: Process, numbers: list[int]) -> None:
    directory, exe, clocks = numbers
    table.call(f"fchdir {process.directory}", NR_FCHDIR, directory)
    table.call("umask", NR_UMASK, process.umask)
    table.call("personality", NR_PERSONALITY, process.personality)
    table.call("setns to the time namespace", NR_SETNS, clocks, CLONE_NEWTIME)
    space = process.space
    auxv = table.place(space.auxv)
    words = (
        space.start_code,
        space.end_code,
        space.start_data,
        space.end_data,
        space.start_brk,
        space.brk,
        space.start_stack,
        space.arg_start,
        space.arg_end,
        space.env_start,
        space.env_end,
        auxv,
    )
    block = struct.pack("=12QII", *words, len(space.auxv), exe)
    place = table.place(block)
    table.call("prctl PR_SET_MM_MAP", NR_PRCTL, PR_SET_MM, PR_SET_MM_MAP, place, len(block), 0)
    add_registrations(table, process.membarrier)
    for number in numbers:
        table.call(f"close {number}", NR_CLOSE, number)


def _set_offsets(pid: int, clocks: Clocks) -> None:
    """Let the clocks go on where they stood (time_namespaces(7))."""
    lines = []
    for name, value, clock in (
        ("monotonic", clocks.monotonic, time.CLOCK_MONOTONIC),
        ("boottime", clocks.boottime, time.CLOCK_BOOTTIME),
    ):
        seconds, rest = divmod(value - time.clock_gettime_ns(clock), _BILLION)
        lines.append(f"{name} {seconds} {rest}\n")
    procfs.write_text(f"/proc/{pid}/timens_offsets", "".join(lines))


def _check_clocks(held: Held, clocks: Clocks) -> None:
    monotonic, boottime = procfs.clock_offsets(held.pid)
    if time.clock_gettime_ns(time.CLOCK_MONOTONIC) + monotonic < clocks.monotonic:
        raise StateMismatch(f"process {held.pid}: CLOCK_MONOTONIC would run backwards")
    if time.clock_gettime_ns(time.CLOCK_BOOTTIME) + boottime < clocks.boottime:
        raise StateMismatch(f"process {held.pid}: CLOCK_BOOTTIME would run backwards")


def _set_limits(pid: int, process: Process) -> None:
    for which, wanted in enumerate(process.limits):
        if resource.prlimit(pid, which) != wanted:
            resource.prlimit(pid, which, wanted)


def _set_outside(pid: int, process: Process) -> None:
    for name, base, wanted in (
        ("oom_score_adj", 10, process.oom_score_adj),
        ("coredump_filter", 16, process.coredump_filter),
    ):
        file = f"/proc/{pid}/{name}"
        if int(procfs.read_text(file), base) != wanted:
            procfs.write_text(file, str(wanted))
    if process.autogroup is not None and sched.autogroup(pid) not in (None, process.autogroup):
        sched.set_autogroup(pid, process.autogroup)


def _armed(which: int, timer: bytes) -> bytes:
    """Return a ``struct itimerval`` that goes on as the one that was read.

    The kernel winds the real-time one again when its signal is delivered. Until then it shows no
    time left, with which it would not start again: it expires at once, to the same single signal.
    """
    interval, value = timer[:16], timer[16:]
    if which == _ITIMER_REAL and any(interval) and not any(value):
        return interval + struct.pack("=QQ", 0, 1)
    return timer


def _pending(process: Process) -> int:
    """Return the signals that wait for the process or one of its threads, as a mask."""
    infos = [*process.pending, *(info for thread in process.threads for info in thread.pending)]
    numbers = {int.from_bytes(info[:4], "little") for info in infos}
    return sum(1 << (number - 1) for number in numbers if number in SIGNALS)


def _set_signals(held: Held, process: Process) -> None:
    table = held.stub.table()
    for number, action in zip(SIGNALS, process.actions, strict=True):
        if any(action):
            place = table.place(action)
            table.call(f"rt_sigaction {number}", NR_RT_SIGACTION, number, place, 0, 8)
    for which, timer in enumerate(process.interval_timers):
        if any(timer):
            place = table.place(_armed(which, timer))
            table.call(f"setitimer {which}", NR_SETITIMER, which, place, 0)
    held.stub.run(table)
    queue_signals(held, process, process.pending, NR_RT_SIGQUEUEINFO, process.pid)


def _set_thread(held: Held, process: Process, thread: Thread) -> None:
    table = held.stub.table()
    name = table.place(thread.name + b"\0")
    table.call("prctl PR_SET_NAME", NR_PRCTL, PR_SET_NAME, name)
    table.call("prctl PR_SET_TIMERSLACK", NR_PRCTL, PR_SET_TIMERSLACK, thread.timer_slack)
    table.call("set_tid_address", NR_SET_TID_ADDRESS, thread.clear_child_tid)
    head, length = thread.robust_list
    if head:
        table.call("set_robust_list", NR_SET_ROBUST_LIST, head, length)
    address, size, signature, flags = thread.rseq
    if address:
        table.call("rseq", NR_RSEQ, address, size, flags, signature)
    pointer, mode, _, room = struct.unpack("=QiiQ", thread.altstack)
    if not mode & _SS_DISABLE:
        place = table.place(struct.pack("=QiiQ", pointer, mode & ~1, 0, room))
        table.call("sigaltstack", NR_SIGALTSTACK, place, 0)
    held.stub.run(table)
    receiver = (process.pid, thread.tid)
    queue_signals(held, process, thread.pending, NR_RT_TGSIGQUEUEINFO, *receiver)


def _set_identity(held: Held, process: Process, filters: int) -> None:
    wanted = process.credentials
    table = held.stub.table()
    present = Reading(table)
    settings = present.values(held.stub.run(table), held.memory)
    table = held.stub.table()
    status = procfs.read_status(held.pid)
    bounding, full = int(status["CapBnd"], 16), int(status["CapPrm"], 16)
    for number in range(64):
        if (bounding & ~wanted.bounding) >> number & 1:
            table.call(f"dropping capability {number}", NR_PRCTL, PR_CAPBSET_DROP, number)
    _add_filters(table, held, wanted, filters)
    groups = table.place(struct.pack(f"={len(wanted.groups)}I", *wanted.groups))
    table.call("setgroups", NR_SETGROUPS, len(wanted.groups), groups)
    table.call("prctl PR_SET_KEEPCAPS", NR_PRCTL, PR_SET_KEEPCAPS, 1)
    table.call("setresgid", NR_SETRESGID, *wanted.gids[:3])
    table.call("setresuid", NR_SETRESUID, *wanted.uids[:3])
    # In force again, as far as the process held them: what follows needs more than it may keep.
    _add_capabilities(table, wanted.inheritable, full, full)
    # Before the securebits, which may forbid to raise any.
    table.call("clearing ambient", NR_PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(64):
        if wanted.ambient >> number & 1:
            arguments = (PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
            table.call(f"raising ambient capability {number}", NR_PRCTL, *arguments)
    table.call("prctl PR_SET_SECUREBITS", NR_PRCTL, PR_SET_SECUREBITS, wanted.securebits)
    # Any other than the one wanted, so that the kernel takes the change for one (kernel/cred.c,
    # commit_creds), which makes a process dumpable as fs.suid_dumpable says.
    for number, user in ((NR_SETFSUID, wanted.uids), (NR_SETFSGID, wanted.gids)):
        table.call("setfsuid, setfsgid", number, 0 if user[3] else 1)
        table.call("setfsuid, setfsgid", number, user[3])
    _add_capabilities(table, wanted.inheritable, wanted.permitted, wanted.effective)
    if wanted.no_new_privs:
        table.call("prctl PR_SET_NO_NEW_PRIVS", NR_PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if wanted.dumpable != _ROOT_ONLY:
        table.call("prctl PR_SET_DUMPABLE", NR_PRCTL, PR_SET_DUMPABLE, wanted.dumpable)
    dumpable = table.call("prctl PR_GET_DUMPABLE", NR_PRCTL, PR_GET_DUMPABLE)
    add_changes(table, settings, process.settings)
    if wanted.seccomp_mode == _STRICT:
        table.call("seccomp strict", NR_SECCOMP, _SECCOMP_SET_MODE_STRICT, 0, 0)
    held.drop_channel(table)
    if (found := held.stub.run(table)[dumpable]) != wanted.dumpable:
        raise NotCarried(
            f"process {held.pid} is dumpable in another way ({found}, not {wanted.dumpable}) here",
            hint="give /proc/sys/fs/suid_dumpable the same value on both hosts",
        )


def _add_capabilities(table: Table, inheritable: int, permitted: int, effective: int) -> None:
    header = table.place(struct.pack("=Ii", _CAP_VERSION_3, 0))
    sets = (effective, permitted, inheritable)
    words = [value & 0xFFFFFFFF for value in sets] + [value >> 32 for value in sets]
    table.call("capset", NR_CAPSET, header, table.place(struct.pack("=6I", *words)))


def _add_filters(table: Table, held: Held, wanted: Credentials, filters: int) -> None:
    present = len(seccomp_filters(held.pid))
    if present != filters or len(wanted.seccomp_filters) < filters:
        raise StateMismatch(
            f"process {held.pid} has {present} seccomp filters, where {filters} of the source's "
            f"{len(wanted.seccomp_filters)} were to be in force",
        )
    both = zip(wanted.seccomp_filters, wanted.seccomp_flags, strict=True)
    for program, told in list(both)[filters:]:
        flags = told | _SECCOMP_FILTER_FLAG_SPEC_ALLOW
        place = table.place(struct.pack("=HxxxxxxQ", len(program) // 8, table.place(program)))
        table.call("seccomp", NR_SECCOMP, _SECCOMP_SET_MODE_FILTER, flags, place)


def set_registers(held: Held, thread: Thread, registers: Registers) -> None:
    """Give the thread its registers; the stub must be gone. What it does next is its own code.

    It leaves a signal stop, so that the kernel goes on with an interrupted call as it would have
    where the thread comes from: with EINTR, or once more, as signals are pending or not.
    Raises MachineMismatch where its extended state does not fit this CPU.
    """
    held.tracee.enter_signal_stop()
    ptrace.set_xstate(held.pid, xstate.on_this_cpu(held.pid, thread.xstate))
    ptrace.set_sigmask(held.pid, thread.blocked)
    ptrace.set_registers(held.pid, registers)
