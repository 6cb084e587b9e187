"""Reading and writing the memory of another process."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from livemig.system.libc import failed, libc

USER_END = 0x7FFF_FFFF_F000  # of what a process can map; x86_64 gives more only where asked
PAGE_SIZE = 4096
_IOV_MAX = 1024


for _function in (libc.process_vm_readv, libc.process_vm_writev):
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    ]


@functools.cache
def user_start() -> int:
    """Return the lowest address that a process may map without CAP_SYS_RAWIO (proc(5))."""
    return int(Path("/proc/sys/vm/mmap_min_addr").read_text())


def _vectors(ranges: Sequence[tuple[int, int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """Return ``ranges`` as an array of ``struct iovec``."""
    return np.array(ranges, np.uint64)


def read_ranges(pid: int, ranges: Sequence[tuple[int, int]], buffer: bytearray) -> int:
    """Read ``ranges`` (address, length in bytes) of a process one after the other into ``buffer``.

    Returns the number of bytes read; it is smaller where memory vanished meanwhile. Raises OSError
    (ESRCH, EPERM; EFAULT where nothing at all could be read). See process_vm_readv(2).
    """
    base = np.frombuffer(buffer, np.uint8).ctypes.data
    return _transfer(libc.process_vm_readv, f"reading memory of process {pid}", pid, ranges, base)


def write_ranges(
    pid: int, ranges: Sequence[tuple[int, int]], data: bytes | bytearray | memoryview
) -> int:
    """Write ``data`` over ``ranges`` (address, length in bytes) of a process.

    Returns the number of bytes written, smaller where a range is not writable. Raises OSError.
    """
    base = np.frombuffer(data, np.uint8).ctypes.data
    return _transfer(libc.process_vm_writev, f"writing memory of process {pid}", pid, ranges, base)


def _transfer(
    call: Callable[..., int], what: str, pid: int, ranges: Sequence[tuple[int, int]], base: int
) -> int:
    done = 0
    for first in range(0, len(ranges), _IOV_MAX):
        part = ranges[first : first + _IOV_MAX]
        length = sum(size for _, size in part)
        local, remote = _vectors([(base + done, length)]), _vectors(part)
        count = call(pid, local.ctypes.data, 1, remote.ctypes.data, len(part), 0)
        if count < 0:
            raise failed(f"{what} at {part[0][0]:#x}")
        done += count
        if count < length:
            break
    return done


class Memory:
    """The memory of a process through /proc/PID/mem, whatever its protection.

    The descriptor keeps the address space itself, so that a PID that was given to another process
    cannot lead into the wrong memory.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes at ``address``; OSError (EIO) where they are not mapped.

        ProcessLookupError where the process has ended.
        """
        parts = []
        while length:
            part = os.pread(self._fd, length, address)
            if not part:
                raise ProcessLookupError(3, f"process {self.pid} has no memory any more")
            parts.append(part)
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data`` at ``address``, read-only private mappings included."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, address)
            if not count:
                raise ProcessLookupError(3, f"process {self.pid} has no memory any more")
            address += count
            view = view[count:]

    def is_gone(self) -> bool:
        """Tell whether the address space is no more: the process has ended, or executed a program.

        See mem_rw in fs/proc/base.c: nothing is read then, where an address alone would be an
        error.
        """
        try:
            return not os.pread(self._fd, 1, 0)
        except OSError:
            return False

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
