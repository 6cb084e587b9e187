"""The one place that starts processes.

A child gets the descriptors that it is given and no others, and is waited for and ended by its
pidfd, so that a number that was used again can never be hit (pidfd_open(2)).
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

_TAIL = 8 << 10
_GRACE = 2.0


@dataclass(frozen=True)
class Result:
    """What a program left that has ended; a negative ``returncode`` is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def last_line(self) -> str:
        """Return the last line that the program wrote to standard error, for messages."""
        return last_line(self.stderr)


class Process:
    """A child of this process, held by a pidfd. Leaving its scope ends it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(0)

    @property
    def returncode(self) -> int | None:
        """Return the exit status, or minus the signal, once ``wait`` has seen the end."""
        return self._popen.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; return the exit status, None if it runs on after ``timeout`` s."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        if not poller.poll(None if timeout is None else max(timeout, 0) * 1000):
            return None
        return self._popen.wait()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self._popen.returncode is None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                return

    def end(self, grace: float = _GRACE) -> int:
        """Wait ``grace`` s, then SIGTERM and as long again, then SIGKILL; return the status."""
        status = self.wait(grace)
        if status is None and grace > 0:
            self.kill(signal.SIGTERM)
            status = self.wait(grace)
        if status is None:
            self.kill()
            status = self._popen.wait()
        self.close()
        return status

    def close(self) -> None:
        """Let go of the pidfd; the process itself runs on if it does."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def spawn(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    new_session: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
) -> Process:
    """Start ``argv``, found on PATH; no shell is involved.

    The standard streams are the descriptors given, /dev/null where none is. ``user`` names an
    account whose user, group and supplementary groups the child takes (needs root). Raises OSError
    where the program cannot be started.
    """
    with _unblocked():
        popen = subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            close_fds=True,
            start_new_session=new_session,
            env=None if env is None else dict(env),
            cwd=cwd,
            user=user,
            group=None if user is None else _group_of(user),
            extra_groups=None if user is None else os.getgrouplist(user, _group_of(user)),
        )
    return Process(popen)


@contextmanager
def _unblocked() -> Iterator[None]:
    """Let a child start with SIGCHLD unblocked, which a tracer keeps blocked for itself."""
    previous = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run ``argv`` to its end and return what it wrote.

    Raises TimeoutError when it takes longer than ``timeout`` s (it is killed then), OSError where
    it cannot be started.
    """
    with _unblocked():
        popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            close_fds=True,
            env=None if env is None else dict(env),
        )
    with popen:
        try:
            out, err = popen.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            popen.kill()
            raise TimeoutError(f"{argv[0]} took longer than {timeout:g} s") from None
    return Result(tuple(argv), popen.returncode, out, err)


class Tail:
    """Keeps the last 8 KiB of what processes write into ``fd``, a pipe to give as their stderr."""

    def __init__(self) -> None:
        self._read, self.fd = os.pipe()
        self._data = b""
        self._thread = threading.Thread(target=self._drain, name="stderr", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Close this side's copy of ``fd``, once the process that writes has been started."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def text(self, timeout: float = 0.5) -> bytes:
        """Return the tail; waits ``timeout`` s for the writers to end."""
        self.release()
        self._thread.join(timeout)
        return self._data

    def _drain(self) -> None:
        while piece := os.read(self._read, 4096):
            self._data = (self._data + piece)[-_TAIL:]
        os.close(self._read)


def last_line(text: bytes) -> str:
    """Return the last line that is not blank, fit to be shown."""
    lines = [line.strip() for line in text.decode(errors="replace").splitlines()]
    shown = "".join(c for c in next((s for s in reversed(lines) if s), "") if c.isprintable())
    return shown[:300]


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
