"""Programs on a terminal of their own, as `docker run -t` starts them."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from contextlib import suppress
from typing import IO

from tests.root.apps import LIMIT, App


class ScreenApp(App):
    """A program that leads the session of a terminal, whose master is ours."""

    def _spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        self.master, slave = os.openpty()
        os.set_blocking(self.master, False)
        self.slave_name = os.ttyname(slave)
        try:
            lead = ["setsid", "--ctty", *argv]
            return self.popen(lead, stdin=slave, stdout=slave, stderr=slave)
        finally:
            os.close(slave)

    def _ends(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        master = open(self.master, "r+b", buffering=0)  # noqa: SIM115
        return master, master, master

    def streams(self) -> dict[int, object]:  # type: ignore[override]
        """It has none."""
        return {}

    def follow(self, other: App) -> None:
        """Take over what another has shown."""
        assert isinstance(other, ScreenApp)
        self._buffer = other.screen() + self._buffer

    def screen(self) -> bytes:
        """Return all that it has shown and that nobody has looked at, without waiting."""
        with suppress(BlockingIOError, OSError):
            while data := os.read(self.master, 65536):
                self._buffer += data
        found, self._buffer = self._buffer, b""
        return found

    def until(self, text: bytes, timeout: float = LIMIT) -> bytes:
        """Return what it shows up to and with a text."""
        deadline = time.monotonic() + timeout
        while text not in self._buffer:
            ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
            data = b""
            with suppress(OSError):  # EIO: it has ended
                data = os.read(self.master, 65536) if ready else b""
            assert data, f"process {self.pid} shows only {self._buffer!r}, not {text!r}"
            self._buffer += data
        end = self._buffer.index(text) + len(text)
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found

    def wait_for_nothing(self, wait: float = 0.1) -> bytes:
        """Return what it shows in a while in which it may show nothing."""
        select.select([self.master], [], [], wait)
        return self.screen()

    def type(self, data: bytes) -> None:
        """Type, and wait until the terminal has taken it in."""
        assert os.write(self.master, data) == len(data)
        slave = os.open(self.slave_name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            # A read that finds nothing, or a poll, first has the kernel look at what has come.
            poller = select.poll()
            poller.register(slave, select.POLLIN)
            poller.poll(0)
        finally:
            os.close(slave)

    def settings(self) -> list[object]:
        """Return what `stty` would show."""
        return list(termios.tcgetattr(self.master))

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""
        data = fcntl.ioctl(self.master, termios.TIOCGWINSZ, bytes(8))
        rows, columns, _, _ = struct.unpack("=HHHH", data)
        return columns, rows

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))
