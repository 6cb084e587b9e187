"""The cgroup freezer of a container: what holds its processes without a tracer.

cgroup v1: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; v2: cgroup.freeze in
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from livemig.errors import InternalError, KernelLacks
from livemig.system import procfs

_ROOT = Path("/sys/fs/cgroup")
_PAUSE = 0.0002  # seconds between looks at a v1 freezer, which offers no event


@dataclass(frozen=True)
class _Interface:
    """A version's files: what is written into the first, and what the second says afterwards."""

    switch: str
    freeze: str
    thaw: str
    report: str
    frozen: str
    tells: bool
    """Whether a change of the report can be waited for."""


_INTERFACES = {
    1: _Interface("freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN\n", tells=False),
    2: _Interface("cgroup.freeze", "1", "0", "cgroup.events", "frozen 1\n", tells=True),
}


class Freezer:
    """Freezes and thaws all processes of a cgroup; a frozen one stays so when we die."""

    def __init__(self, directory: Path, *, version: int) -> None:
        self.directory = directory
        self._interface = _INTERFACES[version]

    @classmethod
    def of_process(cls, pid: int) -> Freezer:
        """Return the freezer that ``docker pause`` uses for the container of a process.

        ProcessLookupError for one that is ending, and has left its cgroup for the root's.
        """
        unified = None
        for line in procfs.read_text(f"/proc/{pid}/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if path.endswith(" (deleted)"):
                raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended, and so its cgroup")
            if "freezer" in controllers.split(","):
                _require_inside(pid, path)
                return cls(_ROOT / "freezer" / path.lstrip("/"), version=1)
            if not controllers:
                unified = _ROOT / path.lstrip("/")
        if unified == _ROOT:
            _require_inside(pid, "/")
        if unified is not None and (unified / "cgroup.freeze").exists():
            return cls(unified, version=2)
        raise KernelLacks(
            f"process {pid} is in no cgroup that can be frozen",
            hint="mount the freezer controller, or cgroup v2, at /sys/fs/cgroup",
        )

    def processes(self) -> list[int]:
        """Return the processes of the cgroup and of all below it, as this PID namespace counts."""
        found: list[int] = []
        for path, _, _ in os.walk(self.directory):
            found += [int(word) for word in procfs.read_text(f"{path}/cgroup.procs").split()]
        return sorted(found)

    def freeze(self, timeout: float = 10.0) -> None:
        """Freeze all processes and wait for it; InternalError where that takes too long."""
        self.request_freeze()
        deadline = time.monotonic() + timeout
        while not self.frozen():
            if time.monotonic() > deadline:
                raise InternalError(f"{self.directory} did not freeze within {timeout} s")
            self._await_change()

    def request_freeze(self) -> None:
        """Ask for freezing without waiting for it."""
        procfs.write_text(f"{self.directory}/{self._interface.switch}", self._interface.freeze)

    def thaw(self) -> None:
        """Let all processes run; a cgroup that is gone is no error, for it has none."""
        try:
            procfs.write_text(f"{self.directory}/{self._interface.switch}", self._interface.thaw)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def frozen(self) -> bool:
        """Tell whether all processes are frozen."""
        return self._interface.frozen in procfs.read_text(
            f"{self.directory}/{self._interface.report}"
        )

    def _await_change(self) -> None:
        if not self._interface.tells:
            time.sleep(_PAUSE)
            return
        with open(self.directory / self._interface.report, "rb", buffering=0) as report:
            if self._interface.frozen.encode() in report.read():
                return
            poller = select.poll()
            poller.register(report, select.POLLPRI)
            poller.poll(50)


def _require_inside(pid: int, path: str) -> None:
    if path == "/":
        raise ProcessLookupError(
            errno.ESRCH, f"process {pid} is in no cgroup of its own (any more)"
        )


def await_end(processes: Iterable[int], timeout: float) -> bool:
    """Wait until all of these processes have ended; False where one has not after ``timeout`` s."""
    deadline = time.monotonic() + timeout
    for pid in processes:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
                return False
        finally:
            os.close(handle)
    return True


def container_processes(pid: int) -> list[int]:
    """Return the processes in the cgroup of a container's first process, that one first."""
    found = Freezer.of_process(pid).processes()
    return sorted(found, key=lambda other: (other != pid, procfs.namespaced_id(other)))
