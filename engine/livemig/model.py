"""What a container's processes are made of, as it crosses the wire.

Everything here is made for trees of processes with threads; addresses and lengths are in bytes,
times in nanoseconds, IDs as the container's own PID namespace counts them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

WRITE_PROTECT, SOFT_DIRTY, COMPARISON = TRACKERS = ("write-protect", "soft-dirty", "comparison")
TrackerChoice = Literal["auto", "write-protect", "soft-dirty", "comparison"]
DEVICE, STUB = LAYOUTS = ("device", "stub")
LayoutChoice = Literal["auto", "device", "stub"]


class Kind(StrEnum):
    """What stands behind a memory mapping."""

    ANONYMOUS = "anonymous"
    FILE = "file"
    STACK = "stack"  # grows down
    VVAR = "vvar"  # the kernel's data pages beside the vDSO
    VDSO = "vdso"
    FOREIGN = "foreign-vdso"  # a copy of another kernel's, which leads into this one's

    @property
    def is_kernels(self) -> bool:
        """Whether each kernel has other pages there, which are not carried."""
        return self in _KERNELS

    @property
    def has_entries(self) -> bool:
        """Whether it is the code of a vDSO, or leads into it."""
        return self in (Kind.VDSO, Kind.FOREIGN)


_KERNELS = (Kind.VVAR, Kind.VDSO, Kind.FOREIGN)
SHARED = "ms"  # MAP_SHARED, of a file that is open for reading alone
_MADE = frozenset(("nr", "dp", "gd", SHARED))  # MAP_NORESERVE, MAP_DROPPABLE, MAP_GROWSDOWN
_HUGE = frozenset(("hg", "nh"))  # MADV_HUGEPAGE, MADV_NOHUGEPAGE


@dataclass(frozen=True)
class Mapping:
    """One mapping; ``prot`` as in mmap(2), ``path`` as the container sees it.

    ``flags`` are those of VmFlags in /proc/PID/smaps that are carried (proc(5)), sorted. ``offset``
    is that in the file; of anonymous memory that was moved it is how far, which the kernel
    remembers: it joins only what was moved alike. Of what a process has, nobody tells it.
    """

    start: int
    end: int
    prot: int
    kind: Kind
    offset: int = 0
    path: str = ""
    flags: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def is_shared(self) -> bool:
        """Whether it shows a file as it is, always: nobody can write through it."""
        return self.kind is Kind.FILE and SHARED in self.flags

    def part(self, start: int, end: int) -> Mapping:
        """Return the mapping of a part of it."""
        further = start - self.start if self.kind is Kind.FILE else 0
        return replace(self, start=start, end=end, offset=self.offset + further)

    def same_backing(self, other: Mapping) -> bool:
        """Tell whether both show the same bytes wherever they overlap, protection aside.

        ``other`` comes after. Flags that only mmap(2) gives, or nothing takes away, tell apart.
        """
        if self.kind is not other.kind or self.path != other.path:
            return False
        if _MADE & set(self.flags) != _MADE & set(other.flags):
            return False
        if _HUGE & set(self.flags) and not _HUGE & set(other.flags):
            return False
        if self.kind is Kind.FILE:
            return self.start - self.offset == other.start - other.offset
        if self.kind.is_kernels:
            return self.start == other.start and self.end == other.end
        return self.offset == other.offset


@dataclass(frozen=True)
class MappedFile:
    """A file that clean pages come from: its size and the digest of its bytes (blake2b-256)."""

    path: str
    size: int
    digest: bytes


@dataclass(frozen=True)
class VdsoImage:
    """The code of the vDSO, or of the copy of one, that is mapped at ``start``."""

    start: int
    code: bytes


@dataclass(frozen=True)
class Layout:
    """The mappings of one process, by ascending address, and the files behind them."""

    pid: int
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True)
class Residence:
    """How pages lie in memory: spans of huge pages, and pages of files that are mapped in."""

    huge: tuple[tuple[int, int], ...] = ()
    files: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Scheduling:
    """How a thread shares the CPU (sched(7), ioprio_set(2)); times in nanoseconds.

    ``cpus`` are those that it is bound to, none where it may use all that its cpuset has.
    """

    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int
    util_min: int
    util_max: int
    io_priority: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Timer:
    """A POSIX timer (timer_create(2)): its event, interval, and what is left, in nanoseconds.

    ``expires`` is when, by its clock, 0 where it stands or its clock is not the container's own.
    ``thread`` is the one that gets the signal, 0 for the process.
    """

    number: int
    clock: int
    notify: int
    signal: int
    value: int
    thread: int
    interval: int
    left: int
    expires: int
    overruns: int


@dataclass(frozen=True)
class Deadline:
    """When a relative time-out ends: ``at`` on a ``clock`` of the container (clock_gettime(2))."""

    clock: int
    at: int


@dataclass(frozen=True)
class Thread:
    """One thread: what it goes on with.

    ``registers`` is ``struct user_regs_struct`` (27 words of 64 bits). Where a system call was
    interrupted, rax holds the kernel's restart code and orig_rax the call's number, and
    ``deadline`` tells until when it waits if its time-out is relative. ``xstate`` is XSAVE's
    standard format, ``pending`` are siginfos (128 bytes).
    """

    tid: int
    name: bytes
    registers: bytes
    xstate: bytes
    blocked: int
    pending: tuple[bytes, ...]
    robust_list: tuple[int, int]
    clear_child_tid: int
    rseq: tuple[int, int, int, int]
    altstack: bytes
    timer_slack: int
    scheduling: Scheduling
    deadline: Deadline | None = None


@dataclass(frozen=True)
class Credentials:
    """Who a process is, and how it is confined (credentials(7), capabilities(7), seccomp(2)).

    ``seccomp_flags`` are those that each filter was installed with, as far as the kernel tells.
    """

    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    securebits: int
    no_new_privs: bool
    dumpable: int
    seccomp_mode: int
    seccomp_filters: tuple[bytes, ...]
    seccomp_flags: tuple[int, ...]
    lsm: str


@dataclass(frozen=True)
class AddressSpace:
    """What the kernel keeps about an address space beside mappings (PR_SET_MM_MAP, prctl(2))."""

    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    auxv: bytes
    exe: str


class Role(StrEnum):
    """Which of the container's standard streams a pipe is."""

    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"


class Opened(StrEnum):
    """Kinds of open file descriptions."""

    STREAM = "stream"
    FILE = "file"
    DIRECTORY = "directory"
    DEVICE = "device"
    TERMINAL = "terminal"


@dataclass(frozen=True)
class Description:
    """One open file description; descriptors refer to it by its place in the list."""

    kind: Opened
    path: str
    flags: int
    position: int = 0
    role: Role | None = None
    device: int = 0

    @property
    def is_own_terminal(self) -> bool:
        """Whether it is the process's controlling terminal, opened as such."""
        return self.kind is Opened.TERMINAL and self.path == "/dev/tty"


@dataclass(frozen=True)
class Descriptor:
    """One descriptor of a process."""

    number: int
    description: int
    close_on_exec: bool


@dataclass(frozen=True)
class Process:
    """One process: everything but its pages.

    ``settings`` are those of ``livemig.settings``, by name; ``autogroup`` is the nice value of its
    autogroup, where there is one. ``guards`` are address ranges where a page faults though it is
    mapped (MADV_GUARD_INSTALL); ``future_locks`` are flags of mlockall(2) for what is mapped later;
    ``membarrier`` is a mask of the commands of membarrier(2) by which it registers again.
    """

    pid: int
    parent: int
    threads: tuple[Thread, ...]
    space: AddressSpace
    credentials: Credentials
    actions: tuple[bytes, ...]
    pending: tuple[bytes, ...]
    interval_timers: tuple[bytes, ...]
    timers: tuple[Timer, ...]
    limits: tuple[tuple[int, int], ...]
    directory: str
    umask: int
    personality: int
    oom_score_adj: int
    coredump_filter: int
    autogroup: int | None
    settings: dict[str, int]
    descriptors: tuple[Descriptor, ...]
    future_locks: int = 0
    guards: tuple[tuple[int, int], ...] = ()
    membarrier: int = 0


@dataclass(frozen=True)
class Clocks:
    """What the container's clocks showed when it was frozen."""

    monotonic: int
    boottime: int


@dataclass(frozen=True)
class Terminal:
    """The container's terminal, but for what was typed.

    ``settings`` is ``struct termios2``, ``window`` ``struct winsize``; ``owner`` and ``mode`` are
    of its file; ``controlling`` tells whether it is the controlling terminal of the processes.
    """

    settings: bytes
    window: bytes
    exclusive: bool
    owner: tuple[int, int]
    mode: int
    controlling: bool


class Stopped(StrEnum):
    """What has stopped the output of a terminal."""

    NOTHING = ""
    CHARACTER = "character"  # Ctrl-S
    CALL = "call"  # tcflow(3)


@dataclass(frozen=True)
class Typed:
    """What was typed on a terminal and not read, and what came to it while it was frozen.

    ``lines`` are what one read(2) each would return, ``partial`` is still being edited (where the
    terminal is not in canonical mode: all of it); ``quoted`` tells that the next character is to be
    taken literally (Ctrl-V). ``signals`` were sent from the keyboard, ``window`` is the size now.
    """

    lines: tuple[bytes, ...] = ()
    partial: bytes = b""
    quoted: bool = False
    stopped: Stopped = Stopped.NOTHING
    window: bytes = b""
    signals: tuple[int, ...] = ()


@dataclass(frozen=True)
class Image:
    """A frozen container: its processes, what they have open, its clocks, its unread input.

    ``stdin_ended`` tells that nobody can write to the standard input any more. What is typed on a
    terminal follows later, as ``Typed``.
    """

    processes: tuple[Process, ...]
    descriptions: tuple[Description, ...]
    clocks: Clocks
    stdin: bytes = b""
    stdin_ended: bool = False
    terminal: Terminal | None = None


@dataclass(frozen=True)
class RoundStat:
    """One round: its pages, and how they went (zero, as a delta, whole); bytes on the link, ms."""

    number: int
    pages: int
    zero: int = 0
    delta: int = 0
    whole: int = 0
    bytes: int = 0
    millis: float = 0.0
