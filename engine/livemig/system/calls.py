"""Counts certain system calls of a process, by tracepoints (perf_event_open(2)); no downtime.

The tracepoints' numbers stand in tracefs, which is mounted for ourselves alone (fsmount(2)).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from livemig.system.libc import failed, libc, syscall
from livemig.system.numbers import NR_FSCONFIG, NR_FSMOUNT, NR_FSOPEN, NR_PERF_EVENT_OPEN

_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_FSCONFIG_CMD_CREATE = 6
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_SET_FILTER = 0x40082406  # PERF_EVENT_IOC_SET_FILTER
# Bits of struct perf_event_attr: threads that a counted one starts are counted, too (Linux 5.13
# on), but no processes, which have other memory.
_INHERIT, _INHERIT_THREAD = 1 << 1, 1 << 35
_ATTR = struct.Struct("=IIQQQQQIIQ")  # PERF_ATTR_SIZE_VER0


@dataclass(frozen=True)
class Call:
    """A tracepoint: ``enter_NAME`` or ``exit_NAME``, and which of them count.

    A call that may be ``lacking`` in a kernel is never made there.
    """

    name: str
    filter: str = ""
    lacking: bool = False


class CallCounter:
    """Counts system calls from now on, each of ``calls`` on its own.

    They are those of one thread, and of the threads that come from it, also when these have ended.

    Raises OSError where the kernel has no such tracepoints, or does not let us.
    """

    def __init__(self, tid: int, calls: Sequence[Call]) -> None:
        with ExitStack() as stack:
            events = _tracefs()
            stack.callback(os.close, events)
            self._descriptors: list[int | None] = []
            stack.callback(self.close)
            for call in calls:
                self._descriptors.append(_counting(events, tid, call))
            stack.pop_all()
            os.close(events)

    def counts(self) -> list[int]:
        """Return how often each call was made so far."""
        return [
            0 if each is None else int.from_bytes(os.read(each, 8), "little")
            for each in self._descriptors
        ]

    def close(self) -> None:
        """Count no more."""
        while self._descriptors:
            if (descriptor := self._descriptors.pop()) is not None:
                os.close(descriptor)


def _tracefs() -> int:
    """Return a descriptor of a tracefs that is mounted nowhere."""
    name = ctypes.c_char_p(b"tracefs")
    context = syscall(NR_FSOPEN, name, _CLOEXEC, what="opening tracefs")
    try:
        arguments = (context, _FSCONFIG_CMD_CREATE, None, None, 0)
        syscall(NR_FSCONFIG, *arguments, what="making a tracefs")
        return syscall(NR_FSMOUNT, context, _CLOEXEC, 0, what="mounting tracefs")
    finally:
        os.close(context)


def _counting(events: int, tid: int, call: Call) -> int | None:
    try:
        number = _number(events, call.name)
    except FileNotFoundError:
        if call.lacking:
            return None
        raise
    descriptor = _open(tid, number)
    if call.filter:
        _set_filter(descriptor, call.filter)
    return descriptor


def _number(events: int, name: str) -> int:
    path = f"events/syscalls/sys_{name}/id"
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=events)
    try:
        return int(os.read(descriptor, 32))
    finally:
        os.close(descriptor)


def _open(tid: int, number: int) -> int:
    flags = _INHERIT | _INHERIT_THREAD
    attributes = _ATTR.pack(_PERF_TYPE_TRACEPOINT, _ATTR.size, number, 0, 0, 0, flags, 0, 0, 0)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    arguments = (ctypes.byref(buffer), tid, -1, -1, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC))
    return syscall(NR_PERF_EVENT_OPEN, *arguments, what=f"counting calls of thread {tid}")


def _set_filter(descriptor: int, text: str) -> None:
    request = ctypes.c_ulong(_SET_FILTER)
    if libc.ioctl(descriptor, request, ctypes.c_char_p(text.encode())) < 0:
        raise failed(f"filtering calls by {text}")
