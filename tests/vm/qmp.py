"""The monitor of a QEMU, by its machine protocol (docs/interop/qmp-intro in QEMU's sources)."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.hosts.proc import HostsError

LIMIT = 20.0


class VmError(HostsError):
    """A guest did not do what it was asked; the message says what, and shows its last words."""


class Monitor:
    """A connection to the monitor; QEMU serves one at a time."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lines.readline()
        self.command("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the next one speak with it."""
        self._lines.close()
        self._socket.close()

    def command(self, name: str, **arguments: Any) -> Any:
        """Carry out a command and return its answer; VmError says why it failed."""
        words = {"execute": name, "arguments": arguments}
        self._socket.sendall(json.dumps(words).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise VmError(f"QEMU: {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise VmError(f"QEMU ended at {name}")

    def save(self, uri: str, limit: float) -> None:
        """Stop the processors, and write memory and devices to a migration URI."""
        self.command("stop")
        self.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.command("migrate", uri=uri)
        self._await_migration("saving", limit)

    def run_on(self, limit: float) -> None:
        """Start the processors once the state that QEMU was told to read has been read."""
        self._await_migration("reading", limit)
        self.command("cont")

    def _await_migration(self, what: str, limit: float) -> None:
        deadline = time.monotonic() + limit
        while (status := self.command("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise VmError(f"QEMU: {what} its state: {status}")
            time.sleep(0.2)  # the event is an option that has to be asked for; this is as short
