"""A table of system calls, packed as stub.h says."""

from __future__ import annotations

import errno
import os
import struct

from livemig.errors import InternalError
from livemig.stub.blob import MAGIC, VERSION

_HEADER = struct.Struct("=IIIIQII")
_CALL = struct.Struct("=Q6QqQ")
_MAY_FAIL = 1
_WORD = (1 << 64) - 1
CALLS_SIZE = 128 << 10
BUFFERS_SIZE = 128 << 10


class CallFailed(OSError):
    """A system call of a table failed; ``errno`` and the call's name are set."""


class TableFull(InternalError):
    """More than a table has room for."""


class Table:
    """Calls to make, and the buffers that their arguments point to.

    ``base`` is the address in the process where the table will lie: CALLS_SIZE bytes for calls,
    then BUFFERS_SIZE bytes for buffers.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self._calls: list[tuple[str, tuple[int, ...], int]] = []
        self._buffers = bytearray()

    def __len__(self) -> int:
        return len(self._calls)

    def call(self, name: str, number: int, *arguments: int, may_fail: bool = False) -> int:
        """Add a call and return its index; ``name`` is for the error that tells its failure."""
        words = tuple([argument & _WORD for argument in arguments])
        flags = _MAY_FAIL if may_fail else 0
        self._calls.append((name, (number, *words, *[0] * (6 - len(words))), flags))
        if _HEADER.size + len(self._calls) * _CALL.size > CALLS_SIZE:
            raise TableFull(f"a stub table of {len(self._calls)} calls is too long")
        return len(self._calls) - 1

    def place(self, data: bytes) -> int:
        """Add a buffer with ``data`` (on a boundary of 16 bytes) and return its address."""
        self._buffers += bytes(-len(self._buffers) % 16)
        address = self.base + CALLS_SIZE + len(self._buffers)
        self._buffers += data
        if len(self._buffers) > BUFFERS_SIZE:
            raise TableFull("the buffers of a stub table are too large")
        return address

    def room(self, size: int) -> int:
        """Add a buffer of ``size`` zero bytes and return its address."""
        return self.place(bytes(size))

    def encode(self, frame: int, signal: int) -> list[tuple[int, bytes]]:
        """Return what to write where (address, bytes)."""
        head = _HEADER.pack(MAGIC, VERSION, len(self._calls), 0, frame, signal, 0)
        calls = b"".join(_CALL.pack(*words, 0, flags) for _, words, flags in self._calls)
        parts = [(self.base, head + calls)]
        if self._buffers:
            parts.append((self.base + CALLS_SIZE, bytes(self._buffers)))
        return parts

    def size(self) -> int:
        """Return the length of header and calls in bytes."""
        return _HEADER.size + len(self._calls) * _CALL.size

    def buffers(self) -> tuple[int, int]:
        """Return address and length in bytes of all buffers together."""
        return self.base + CALLS_SIZE, len(self._buffers)

    def under_way(self, data: bytes) -> str:
        """Return the name of the call that a table is in."""
        return [*(name for name, _, _ in self._calls), "the end of a table"][_done(data)]

    def decode(self, data: bytes) -> list[int]:
        """Return the results, -errno where a call that may fail did.

        Raises CallFailed for the first call that may not fail and did.
        """
        done = _done(data)
        calls = memoryview(data)[_HEADER.size : self.size()]
        results = [call[7] for call in _CALL.iter_unpack(calls)]
        if done < len(self._calls):
            name = self._calls[done][0]
            number = -results[done]
            raise CallFailed(number, f"{name}: {os.strerror(number)} ({_name(number)})")
        return results


def _done(data: bytes) -> int:
    """Return how many calls were made."""
    return int(_HEADER.unpack_from(data)[3])


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
