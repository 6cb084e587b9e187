"""A file whose reads are answered when the test says so (include/uapi/linux/fuse.h)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from pathlib import Path
from types import TracebackType

from livemig.system.libc import failed, libc
from tests import pace

_MNT_FORCE, _MNT_DETACH = 1, 2
_HEADER = struct.Struct("=IIQQIIII")
_LIMIT = pace.limit(15.0)
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _FLUSH = 1, 2, 3, 14, 15, 18, 25
_INIT, _OPENDIR, _INTERRUPT, _BATCH_FORGET = 26, 27, 36, 42
_NODE = 2


class SlowFile:
    """One file in a file system of its own, mounted for the length of a scope."""

    def __init__(self, place: Path, content: bytes) -> None:
        self.path = place / "file"
        self._place = place
        self._content = content
        self._reads: list[tuple[int, bytes]] = []
        self._asked, self._free = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> SlowFile:
        self._place.mkdir()
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        target = ctypes.c_char_p(os.fsencode(self._place))
        if libc.mount(
            b"slow", target, b"fuse", ctypes.c_ulong(0), ctypes.c_char_p(options.encode())
        ):
            os.close(self._device)
            raise failed("mounting a file system of our own")
        self._server = threading.Thread(target=self._serve)
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.answer()
        libc.umount2(ctypes.c_char_p(os.fsencode(self._place)), _MNT_FORCE | _MNT_DETACH)
        self._server.join(_LIMIT)
        os.close(self._device)
        assert not self._server.is_alive()

    def await_read(self) -> None:
        """Wait until somebody reads."""
        assert self._asked.wait(_LIMIT)

    def answer(self) -> None:
        """Answer the reads that wait, and all that come."""
        with self._lock:
            self._free.set()
            for unique, data in self._reads:
                self._reply(unique, data)
            self._reads.clear()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 18)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):  # unmounted
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            _, code, unique, node, *_ = _HEADER.unpack_from(request)
            self._handle(code, unique, node, request[_HEADER.size :])

    def _handle(self, code: int, unique: int, node: int, body: bytes) -> None:
        if code in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return
        if code == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            with self._lock:
                self._reads.append((unique, self._content[offset : offset + size]))
            self._asked.set()
            if self._free.is_set():
                self.answer()
            return
        self._reply(unique, self._answers(code, node))

    def _answers(self, code: int, node: int) -> bytes | int:
        if code == _INIT:
            return struct.pack("=IIIIHHII", 7, 31, 0, 0, 1, 1, 1 << 17, 1) + bytes(36)
        if code == _LOOKUP:
            return struct.pack("=QQQQII", _NODE, 0, 0, 0, 0, 0) + self._attributes(_NODE)
        if code == _GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if code in (_OPEN, _OPENDIR):
            return struct.pack("=QII", 1, 0, 0)
        return b"" if code in (_RELEASE, _FLUSH) else errno.ENOSYS

    def _attributes(self, node: int) -> bytes:
        mode = 0o100644 if node == _NODE else 0o40755
        size = len(self._content)
        return struct.pack(
            "=QQQQQQIIIIIIIIII", node, size, 8, 0, 0, 0, 0, 0, 0, mode, *[1, 0, 0, 0], 4096, 0
        )

    def _reply(self, unique: int, answer: bytes | int) -> None:
        data = b"" if isinstance(answer, int) else answer
        problem = -answer if isinstance(answer, int) else 0
        os.write(self._device, struct.pack("=IiQ", 16 + len(data), problem, unique) + data)
