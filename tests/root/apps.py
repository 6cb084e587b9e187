"""Self-checking programs as the first process of a PID namespace of their own, in a cgroup."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from livemig.freezer import Freezer
from livemig.model import Role
from livemig.system import handles, procfs
from livemig.system.libc import syscall
from tests import pace

CLONE_NEWPID = 0x20000000
NR_UNSHARE = 272
NR_NANOSLEEP = 35
LIMIT = pace.limit(15)
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "COLOUR": "blue green", "EMPTY": ""}
_numbers = itertools.count()


def cgroup_root(version: int) -> Path | None:
    """Return where the freezer of a version is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if version == 2 and kind == "cgroup2":
            return Path(place)
        if version == 1 and kind == "cgroup" and "freezer" in options.split(","):
            return Path(place)
    return None


class Cgroup:
    """A control group of our own that can be frozen; gone when closed, with all in it."""

    def __init__(self, version: int | None = None) -> None:
        self.version = version or (1 if cgroup_root(1) else 2)
        root = cgroup_root(self.version)
        assert root is not None, f"no freezer of version {self.version}"
        self.path = root / f"livemig-test-{os.getpid()}-{next(_numbers)}"
        self.path.mkdir()
        self.freezer = Freezer(self.path, version=self.version)

    def enter(self) -> None:
        """Move the process that calls this into the group."""
        (self.path / "cgroup.procs").write_text("0")

    def close(self) -> None:
        """Kill what is left, and remove the group once the last one has been reaped."""
        if not self.path.exists():
            return
        for pid in self.freezer.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.freezer.thaw()
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)
            else:
                return


class App:
    """A program with pipes, PID 1 of its own namespace as in a container."""

    def __init__(self, argv: Sequence[str | Path], *, version: int | None = None) -> None:
        self.cgroup = Cgroup(version)
        home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscall(NR_UNSHARE, CLONE_NEWPID, what="unshare")
            self._popen = self._spawn([str(word) for word in argv])
        finally:
            handles.set_namespace(home, CLONE_NEWPID)
            os.close(home)
        self.pid = self._popen.pid
        self.pipes = self._ends()
        self._buffer = b""

    def _spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return self.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    def popen(self, argv: list[str], **how: Any) -> subprocess.Popen[bytes]:
        """Start a program in the group, and not only move it there: cpuset(7) rebinds what comes.

        Before Linux 6.2 that was to all processors, whatever the program had asked for by then.
        """
        return subprocess.Popen(argv, env=ENVIRONMENT, preexec_fn=self.cgroup.enter, **how)  # noqa: PLW1509

    def _ends(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        assert self._popen.stdin
        assert self._popen.stdout
        assert self._popen.stderr
        return self._popen.stdin, self._popen.stdout, self._popen.stderr

    def streams(self) -> dict[int, Role]:
        """Return the standard streams by inode, as the engine wants them."""
        return {
            os.fstat(pipe.fileno()).st_ino: role
            for pipe, role in zip(self.pipes, Role, strict=True)
        }

    # Speaking with it

    def tell(self, line: str) -> None:
        os.write(self.pipes[0].fileno(), line.encode() + b"\n")

    def send(self, data: bytes) -> None:
        assert os.write(self.pipes[0].fileno(), data) == len(data)

    def receive(self, size: int, timeout: float = LIMIT) -> bytes:
        """Return exactly ``size`` bytes of its output."""
        deadline = time.monotonic() + timeout
        while len(self._buffer) < size:
            self._read(deadline)
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def answer(self, timeout: float = LIMIT) -> str:
        """Return its next line."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            self._read(deadline)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def ask(self, line: str, timeout: float = LIMIT) -> str:
        self.tell(line)
        return self.answer(timeout)

    def follow(self, other: App) -> None:
        """Take over the output that another, which has ended, has left."""
        self._buffer = other._buffer + other.pipes[1].read()

    def _read(self, deadline: float) -> None:
        output = self.pipes[1].fileno()
        ready, _, _ = select.select([output], [], [], max(deadline - time.monotonic(), 0))
        data = os.read(output, 65536) if ready else b""
        if not data:
            what = f"ended ({self._popen.poll()})" if ready else "is silent"
            raise AssertionError(f"process {self.pid} {what}: {self.errors()!r}")
        self._buffer += data

    # Its state

    def settle(self, number: int = 0) -> None:
        """Wait until it is blocked in system call ``number``: read(2) is where it waits for us."""
        deadline = time.monotonic() + LIMIT
        while not Path(f"/proc/{self.pid}/syscall").read_text().startswith(f"{number} "):
            assert time.monotonic() < deadline, f"{self.pid} is not in call {number}"
            time.sleep(0.0005)

    def await_program(self, path: Path) -> None:
        """Wait until it has executed the program at ``path``."""
        deadline = time.monotonic() + LIMIT
        while os.readlink(f"/proc/{self.pid}/exe") != str(path):
            assert time.monotonic() < deadline, self.errors()
            time.sleep(0.0005)

    def await_area(self, name: str) -> None:
        """Wait until memory of a name is mapped."""
        deadline = time.monotonic() + LIMIT
        while name not in {area.name for area in procfs.read_areas(self.pid)}:
            assert time.monotonic() < deadline, f"{self.pid} has no {name}"
            time.sleep(0.0005)

    def await_state(self, letter: str) -> None:
        """Wait until it is in a state of proc(5), "T" where a signal has stopped it."""
        deadline = time.monotonic() + LIMIT
        while self.state() != letter:
            assert time.monotonic() < deadline, f"{self.pid} is in state {self.state()}"
            time.sleep(0.0005)

    def state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]

    # Its end

    def errors(self) -> str:
        """Return what it has written to its standard error so far."""
        os.set_blocking(self.pipes[2].fileno(), False)
        return (self.pipes[2].read() or b"").decode(errors="replace")

    def end(self, timeout: float = LIMIT) -> int:
        """End its input, and return its status."""
        self.pipes[0].close()
        return self._popen.wait(timeout)

    def wait(self, timeout: float = LIMIT) -> int:
        return self._popen.wait(timeout)

    def close(self) -> None:
        """Kill it where it still runs, reap it, and remove its control group."""
        if self._popen.returncode is None:
            self._popen.kill()
            self.cgroup.freezer.thaw()
            self._popen.wait(LIMIT)
        for pipe in self.pipes:
            pipe.close()
        self.cgroup.close()
