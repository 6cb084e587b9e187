"""The mremap device: /dev/livemig changes the memory layout of another process, in batches.

Its manual is kmod/include/uapi/livemig.h; the numbers here are those of that header.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

PATH = "/dev/livemig"
VERSION = 1
MAX_OPS = 4096
IOC_INFO = 0x80106CE0
IOC_RUN = 0xC0186CE1
_INFO = struct.Struct("=IIQ")
_BATCH = struct.Struct("=iIQII")
_OP = struct.Struct("=IIQQQQQIiq")


class Do(IntEnum):
    """The kinds of operations."""

    MOVE = 1
    MOVE_VDSO = 2
    MAP = 3
    MAP_FILE = 4
    UNMAP = 5


class Flag(IntFlag):
    """What an operation may be told besides."""

    REPLACE = 1
    GROWSDOWN = 2
    NORESERVE = 4
    SHARED = 8


class Operation(NamedTuple):
    """One step: addresses, lengths and the offset in bytes, all of whole pages.

    ``flags`` are of Flag; what a kind does not use stays zero. ``path`` only names a mapped file to
    who reads of a failure. There are thousands of them while an application stands still: hence
    a tuple, in the order of ``struct livemig_op``, and no words before something fails.
    """

    kind: Do
    flags: int = 0
    addr: int = 0
    length: int = 0
    new_addr: int = 0
    new_length: int = 0
    offset: int = 0
    prot: int = 0
    fd: int = 0
    path: str = ""

    def packed(self) -> bytes:
        """Return it as a ``struct livemig_op``."""
        return _OP.pack(*self[:-1], 0)

    def __str__(self) -> str:
        words = f"{self.kind.name.lower()} {self.addr:#x}-{self.addr + self.length:#x}"
        if self.new_length:
            words += f" to {self.new_addr:#x}-{self.new_addr + self.new_length:#x}"
        return f"{words} {self.path}".rstrip()


class Device:
    """The device, open; OSError where there is none, or one of another version."""

    def __init__(self) -> None:
        self._fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
        try:
            version, self._max, self.features = self._info()
        except OSError:
            os.close(self._fd)
            raise
        if version != VERSION:
            os.close(self._fd)
            raise OSError(f"{PATH} speaks version {version}, not {VERSION}")

    def _info(self) -> tuple[int, int, int]:
        answer = fcntl.ioctl(self._fd, IOC_INFO, bytes(_INFO.size))
        version, most, features = _INFO.unpack(answer)
        return version, most, features

    def run(self, pidfd: int, operations: Sequence[Operation]) -> None:
        """Carry out operations in order on a process that the calling thread has stopped by ptrace.

        OSError with the errno and the name of the first that failed; those before it are done.
        """
        for first in range(0, len(operations), self._max):
            self._run(pidfd, operations[first : first + self._max])

    def _run(self, pidfd: int, operations: Sequence[Operation]) -> None:
        table = array.array("B", b"".join(operation.packed() for operation in operations))
        place, _ = table.buffer_info()
        batch = bytearray(_BATCH.pack(pidfd, len(operations), place, 0, 0))
        try:
            fcntl.ioctl(self._fd, IOC_RUN, batch)
        except OSError as error:
            raise OSError(error.errno, f"{PATH} does nothing: {error.strerror}") from error
        done = _BATCH.unpack(batch)[3]
        if done < len(operations):
            *_, result = _OP.unpack_from(table, done * _OP.size)
            raise OSError(-result, f"{operations[done]}: {os.strerror(-result)}")

    def close(self) -> None:
        """Close it; again is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
