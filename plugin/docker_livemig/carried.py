"""The list of what is carried and what is refused: README's table is this one.

A refusal has the name that users read, and a part of what the error says of it. Tests find each of
these parts in the code, and one of them in each refusal of the code, so that neither the list nor
the errors can drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """An object that is refused: its ``name``, and what the error ``says`` of it."""

    name: str
    says: str


@dataclass(frozen=True)
class Row:
    """Objects of one kind: those that are carried, and those that are refused."""

    carried: str
    refused: tuple[Refusal, ...] = ()

    def line(self) -> str:
        """Return the row as README's table has it."""
        refused = ", ".join(refusal.name for refusal in self.refused)
        return f"| {self.carried} | {refused} |" if refused else f"| {self.carried} | |"


TABLE = (
    Row(
        "private memory, clean file pages by the file (compared by digest), files that are mapped "
        "shared and only read, stack, heap; locks, advice, guard pages, transparent huge pages",
        (
            Refusal("shared memory that can be written to", "shared memory"),
            Refusal("memfd", "a file that was deleted while open"),
            Refusal("hugetlb pages", "huge pages (MAP_HUGETLB)"),
            Refusal("memory below vm.mmap_min_addr", "memory below vm.mmap_min_addr"),
            Refusal("mapped files that were deleted", "a mapped file that was deleted"),
            Refusal("mapped devices", "a mapped device"),
            Refusal("breakpoints of others", " has set (uprobe, debugger), cannot be carried"),
            Refusal("uprobes", "code of the kernel's for uprobes"),
            Refusal("userfaultfd", "memory whose page faults a program handles (userfaultfd)"),
            Refusal("shadow stacks", "a shadow stack"),
            Refusal("protection keys", "memory with protection key "),
            Refusal("keys that are allocated", " has allocated memory protection keys "),
        ),
    ),
    Row(
        "registers with all extended state, thread pointer, rseq, robust list, alternate stack; "
        "system calls that wait, with the time that is left",
        (
            Refusal("data in AMX's tiles", " holds data in AMX's tiles"),
            Refusal("32-bit code", " runs 32-bit code "),
            Refusal("segments of its own", " has segments of its own "),
            Refusal("Linear Address Masking", "(ARCH_ENABLE_TAGGED_ADDR)"),
            Refusal("Syscall User Dispatch", "(PR_SET_SYSCALL_USER_DISPATCH)"),
            Refusal("several threads", " threads"),
            Refusal("several processes", " processes: "),
            Refusal("zombies", " has a child that has ended, and that it has not waited for "),
            Refusal("traced processes", " is traced by process "),
            Refusal("processes that SIGSTOP stopped", " was stopped by a signal (SIGSTOP)"),
            Refusal(
                "user, PID and time namespaces of its own", " namespace of its own (unshare(2))"
            ),
            Refusal("I/O ports", " may use I/O ports (ioperm(2))"),
        ),
    ),
    Row("signal handlers, masks, pending signals, interval and POSIX timers"),
    Row(
        "scheduling policy, nice, affinity, I/O priority, autogroup, oom score, settings of "
        "prctl(2), registrations of membarrier(2)",
        (
            Refusal("CPUs that the target lacks", ", of which the container has not "),
            Refusal("policies that it refuses", " is refused on the target: "),
            Refusal("NUMA policies", " has a NUMA memory policy (set_mempolicy(2))"),
            Refusal("time slices where its kernel has none", " has asked for a time slice of "),
        ),
    ),
    Row(
        "regular files, directories, /dev/null and its like, the container's standard streams",
        (
            Refusal("sockets", "a socket"),
            Refusal("pipes", "a pipe that is none of the container's standard streams"),
            Refusal(
                "standard output or error that was moved, where nothing tells which it is",
                " or to its standard error, and nothing tells to which",
            ),
            Refusal("epoll, eventfd and their like", "an object of the kind "),
            Refusal("locked files", "a file with locks on it"),
            Refusal("deleted files", "a file that was deleted while open"),
            Refusal("directories that are being read", "a directory that is being read"),
            Refusal("files of /proc and /sys", "a file of the kernel"),
            Refusal("files that send signals", "a file that sends signals ("),
            Refusal(
                "files of namespaces, and of mounts that are gone",
                "a file that is on no mount of its container",
            ),
            Refusal(
                "a directory that was removed, to be in", " is in a directory that was removed"
            ),
            Refusal("more than 200 open files", " files open"),
            Refusal("descriptors 1008 to 1023", ", of those which the move itself needs"),
        ),
    ),
    Row(
        "/dev as the runtime makes it, the mounts that Docker makes",
        (
            Refusal("what was made or changed in /dev", ", which was made or changed inside it"),
            Refusal("files in /dev/shm and /dev/mqueue", ", which is kept in memory"),
            Refusal("System V shared memory, semaphores and queues", " (key "),
            Refusal("mounts that were made inside", "), which was made inside it"),
            Refusal("mounts that were taken away inside", ", which was unmounted inside it"),
            Refusal("a root that was mounted otherwise", " (remount) inside it"),
            Refusal("edited /etc/hosts, hostname, resolv.conf", ", which was changed inside the"),
            Refusal("changed host and domain names", ", which was changed inside the container"),
            Refusal(
                "interfaces, routes, rules and packet filters that were made inside",
                ", which was made inside it",
            ),
            Refusal("addresses that were given inside", ", which was given inside it"),
            Refusal("a default route that was removed inside", ", which was removed inside it"),
        ),
    ),
    Row(
        "its terminal (`-t`): settings, window size, stopped output, owner, mode, what was typed, "
        "also on the source during the move (half a line can still be edited)",
        (
            Refusal("other pseudo-terminals", "a device"),
            Refusal("line disciplines but N_TTY", " has another line discipline than N_TTY"),
            Refusal("locked settings", "settings of its terminal are locked (TIOCSLCKTRMIOS)"),
            Refusal(
                "a foreground group other than the shell's",
                "the foreground group of its terminal is not its own",
            ),
        ),
    ),
    Row(
        "users, groups, capabilities, securebits, seccomp filters, no_new_privs, limits, umask, "
        "directory",
        (
            Refusal("`--privileged`", "access to all devices (--privileged)"),
            Refusal("devices", "device "),
            Refusal("limits of CPU time", " has a limit of its CPU time (RLIMIT_CPU)"),
            Refusal("keyrings of a thread or process", " keyring, which cannot be carried"),
            Refusal("chroot", " has changed its root directory (chroot)"),
            Refusal("seccomp filters that ask a program", "(SECCOMP_RET_USER_NOTIF)"),
        ),
    ),
    Row("arguments, environment, CLOCK_MONOTONIC and BOOTTIME (time namespace)"),
    Row(
        "the vDSO: to a kernel that maps another one its functions stay where they are, and lead "
        "into that",
        (
            Refusal(
                "there: signal handlers that return into it",
                "a signal handler that interrupted it within the vDSO has not returned",
            ),
            Refusal("functions that are unknown there", ", which the source's has"),
        ),
    ),
    Row(
        "configuration, name, image, writable layer, restart policy, health check, published ports",
        (
            Refusal("volumes", "volume "),
            Refusal("tmpfs", " mount at "),
            Refusal("user-defined networks", "network "),
            Refusal("`--network host`", "the host's network (--network host)"),
            Refusal("`--init`", "a second process as PID 1 (--init)"),
            Refusal("bind mounts", "bind mount of "),
            Refusal("`--volumes-from`", " (--volumes-from)"),
            Refusal("`--link`", " (--link)"),
            Refusal("a bridge that was left or joined later", "the network bridge"),
            Refusal("`--pid`", " (--pid)"),
            Refusal("`--ipc`", " (--ipc)"),
            Refusal("`--uts`", " (--uts)"),
            Refusal("`--userns`", " (--userns)"),
            Refusal("`--gpus`", " (--gpus)"),
            Refusal("`--device-cgroup-rule`", " (--device-cgroup-rule)"),
            Refusal("other runtimes", "the runtime "),
            Refusal("tasks of a swarm", "the place of a task of Swarm service "),
            Refusal("storage drivers but overlay2", " (overlay2 is needed)"),
            Refusal("remapped user IDs", "(userns-remap of the daemon)"),
            Refusal("rootless engines", "a rootless engine"),
            Refusal("names in the layer that begin with `.wh.`", " is a name that layers use for"),
            Refusal("overlayfs's redirect_dir and metacopy", "by overlayfs without being copied"),
        ),
    ),
)

RARE = (
    " has a terminal, but does not lead its session and group",
    ": its code holds no system call instruction that could be borrowed",
    "the process catches or blocks SIGURG, SIGWINCH and SIGCHLD alike",
    " has no room for a signal frame on the process's first stack",
    " waits in a system call that another stop had interrupted before",
    ": this kernel does not tell POSIX timers",
    " is dumpable in another way (",
    " is no regular file on the target",
    " is no directory on the target",
    " has descriptors that are too many, or numbered too high",
    ": guard pages (MADV_GUARD_INSTALL) at ",
    " has too high a number",
    " has capabilities (",
)
"""Parts of refusals that no row has: hardly any program meets them, and the message says it all."""
