"""Processes by PID and start time, ended through pidfds, awaited without polling."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path


class HostsError(RuntimeError):
    """A host did not do what it was asked; the message says what and shows the output."""


@dataclass(frozen=True)
class Mark:
    """A process that no later process can be mistaken for."""

    pid: int
    start: int
    """Start time in clock ticks since boot: field 22 of /proc/PID/stat."""

    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        stat = read_stat(self.pid)
        return stat is not None and stat[1] == self.start and stat[0] not in "ZX"

    def save(self, path: Path) -> None:
        """Note it in a file, whole or not at all."""
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps({"pid": self.pid, "start": self.start}))
        draft.rename(path)


def load_mark(path: Path) -> Mark | None:
    """Return what was noted, if that process still runs."""
    try:
        mark = Mark(**json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    return mark if mark.alive() else None


def read_stat(pid: int, proc: str = "/proc") -> tuple[str, int] | None:
    """Return state letter and start time of a process, None where there is none."""
    try:
        text = Path(f"{proc}/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def mark_of(pid: int) -> Mark:
    """Mark a running process."""
    stat = read_stat(pid)
    if stat is None:
        raise HostsError(f"process {pid} is gone")
    return Mark(pid, stat[1])


def end(mark: Mark, sig: signal.Signals = signal.SIGKILL, timeout: float = 20.0) -> None:
    """Signal the process and wait until it is gone."""
    try:
        fd = os.pidfd_open(mark.pid)
    except ProcessLookupError:
        return
    try:
        if not mark.alive():
            return
        signal.pidfd_send_signal(fd, sig)
        if not _readable(fd, timeout):
            raise HostsError(f"process {mark.pid} ignored {sig.name} for {timeout:g} s")
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def _readable(fd: int, timeout: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def outer_pid(init: int, cgroup: str, inner: int) -> int:
    """Translate a PID that a host uses, for itself or a container, into the machine's PID.

    The host is known by its PID 1 and by the parent of its containers' control groups.
    """
    home = os.readlink(f"/proc/{init}/ns/pid")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        here = Path("/proc", entry)
        try:
            numbers = (here / "status").read_text().split("NSpid:")[1].split("\n")[0].split()
            if numbers[1:2] != [str(inner)]:
                continue
            if os.readlink(here / "ns/pid") == home or cgroup in (here / "cgroup").read_text():
                return int(entry)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise HostsError(f"the host of process {init} has no process {inner}")


class Readiness:
    """The socket on which a daemon says READY=1 (sd_notify(3))."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def wait(self, daemon: Mark, timeout: float) -> None:
        """Return when the daemon is ready; TimeoutError, or EOFError if it ended."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        try:
            life = os.pidfd_open(daemon.pid)
        except ProcessLookupError:
            raise EOFError from None
        poller.register(life, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poller.poll(timeout * 1000)]
                if not ready:
                    raise TimeoutError
                if self._socket.fileno() not in ready:
                    raise EOFError
                if b"READY=1" in self._socket.recv(4096).splitlines():
                    return
        finally:
            os.close(life)

    def close(self) -> None:
        """Forget the socket."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
