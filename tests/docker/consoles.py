"""Docker's command line on a terminal that a test types on."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time
from contextlib import suppress
from types import TracebackType

from tests import pace
from tests.hosts import Host

LIMIT = pace.limit(20)
DETACH = b"\x10\x11"  # Ctrl-P Ctrl-Q


class Console:
    """`docker run -it …` or `docker attach …` in a host, in a terminal of its own."""

    def __init__(self, host: Host, *words: str, size: tuple[int, int] = (80, 24)) -> None:
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        self.resize(*size)
        argv = ["setsid", "--ctty", "docker", *words]
        try:
            self.process = host.popen(argv, stdin=slave, stdout=slave, stderr=slave)
        finally:
            os.close(slave)
        self._shown = b""
        self.all = b""

    def __enter__(self) -> Console:
        self._await_raw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)
        os.close(self._master)

    def _await_raw(self) -> None:
        """Wait until the command passes on each key, of which nothing tells."""
        deadline = time.monotonic() + LIMIT
        while termios.tcgetattr(self._master)[3] & termios.ICANON:
            assert time.monotonic() < deadline, self._read() or self.all
            time.sleep(0.005)

    def resize(self, columns: int, rows: int) -> None:
        """Drag the window's corner."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        """Type."""
        assert os.write(self._master, text) == len(text)

    def _read(self) -> bool:
        """Take what is shown; False once the command has ended."""
        with suppress(BlockingIOError):
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return False
            self._shown += data
            self.all += data
        return True

    def until(self, text: bytes, timeout: float = LIMIT) -> bytes:
        """Return what is shown up to and with a text."""
        deadline = time.monotonic() + timeout
        while text not in self._shown:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self._shown!r} after {self.all!r}"
            select.select([self._master], [], [], left)
            ended = not self._read()
            assert not ended or text in self._shown, f"ended without {text!r}: {self.all!r}"
        end = self._shown.index(text) + len(text)
        found, self._shown = self._shown[:end], self._shown[end:]
        return found

    def end(self, timeout: float = LIMIT) -> int:
        """Wait for the end of the command, and return its status; what it showed is in ``all``."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None or select.select([self._master], [], [], 0)[0]:
            assert time.monotonic() < deadline, f"still running after {self.all!r}"
            select.select([self._master], [], [], 0.05)
            if not self._read():
                break
        return self.process.wait(LIMIT)
