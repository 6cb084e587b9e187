"""Descriptors and identities of other processes: pidfd, kcmp, openat2, tee, setns."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from livemig.system.libc import syscall
from livemig.system.numbers import (
    NR_GET_ROBUST_LIST,
    NR_KCMP,
    NR_OPENAT2,
    NR_PIDFD_GETFD,
    NR_SETNS,
    NR_TEE,
)

_T = TypeVar("_T")
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
KCMP_FILE = 0
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
SPLICE_F_NONBLOCK = 2


def fetch_descriptor(pidfd: int, descriptor: int) -> int:
    """Return a duplicate of another process's descriptor (pidfd_getfd(2)), close-on-exec."""
    return syscall(NR_PIDFD_GETFD, pidfd, descriptor, 0, what=f"fetching descriptor {descriptor}")


def same_description(pid1: int, fd1: int, pid2: int, fd2: int) -> bool:
    """Tell whether two descriptors share one open file description (kcmp(2), KCMP_FILE)."""
    order = syscall(
        NR_KCMP,
        pid1,
        pid2,
        KCMP_FILE,
        ctypes.c_ulong(fd1),
        ctypes.c_ulong(fd2),
        what=f"comparing descriptors {fd1} and {fd2}",
    )
    return order == 0


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open ``path`` as a process sees it whose root directory is the descriptor ``root``.

    Symbolic links are followed inside that root only (openat2(2), RESOLVE_IN_ROOT). ValueError for
    a path with a zero byte, which would be another one for the kernel.
    """
    if "\0" in path:
        raise ValueError(f"{path!r} is no path")
    how = ctypes.create_string_buffer(
        struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    )
    return syscall(
        NR_OPENAT2,
        root,
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(24),
        what=f"opening {path}",
    )


def open_file_in_root(root: int, path: str, flags: int) -> int:
    """Open a regular file as ``open_in_root`` does, and nothing else: not even to look at it.

    A FIFO would wait for a writer, a device may do anything. OSError (EINVAL) names it.
    """
    place = open_in_root(root, path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, f"opening {path}: it is no regular file")
        return os.open(f"/proc/self/fd/{place}", flags | os.O_CLOEXEC)
    finally:
        os.close(place)


def tee(source: int, sink: int, length: int) -> int:
    """Copy up to ``length`` bytes from one pipe to another without consuming them (tee(2))."""
    return syscall(
        NR_TEE, source, sink, ctypes.c_size_t(length), SPLICE_F_NONBLOCK, what="tee on a pipe"
    )


def set_namespace(descriptor: int, kind: int) -> None:
    """Enter a namespace (setns(2))."""
    syscall(NR_SETNS, descriptor, kind, what="entering a namespace")


def seen_inside(pid: int, kind: str, flag: int, look: Callable[[], _T]) -> _T:
    """Return what ``look`` sees in a namespace of a process (``kind``: its name in /proc/PID/ns).

    A thread of its own enters it, and is in no other one of the process's: none that threads must
    share, of mounts for one.
    """

    def enter() -> _T:
        namespace = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_namespace(namespace, flag)
        finally:
            os.close(namespace)
        return look()

    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(enter).result()


def robust_list(tid: int) -> tuple[int, int]:
    """Return head and length of a thread's robust futex list (get_robust_list(2))."""
    head = ctypes.c_uint64()
    length = ctypes.c_uint64()
    syscall(
        NR_GET_ROBUST_LIST,
        tid,
        ctypes.byref(head),
        ctypes.byref(length),
        what=f"reading the robust list of thread {tid}",
    )
    return head.value, length.value
