"""Code in a process of its own that can be killed: a tracer that dies."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable
from types import TracebackType

Say = Callable[[], None]


class Forked:
    """Runs ``work`` in a forked child; it gets a function that wakes ``hear``."""

    def __init__(self, work: Callable[[Say], None]) -> None:
        self._ear, mouth = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._live(work, mouth)
        os.close(mouth)
        self._status: int | None = None

    @staticmethod
    def _live(work: Callable[[Say], None], mouth: int) -> None:
        status = 70
        try:
            work(lambda: _say(mouth))
            status = 0
        except BaseException:  # noqa: BLE001  nothing may get out of here
            traceback.print_exc()
        finally:
            os._exit(status)

    def hear(self, timeout: float = 10.0) -> bool:
        """Wait for the child's word; False where it ended without one."""
        ready, _, _ = select.select([self._ear], [], [], timeout)
        assert ready, f"child {self.pid} is silent"
        return bool(os.read(self._ear, 1))

    def pause(self, seconds: float) -> None:
        """Let it work for a while; an early end of it is an error."""
        poller = select.poll()
        handle = os.pidfd_open(self.pid)
        try:
            poller.register(handle, select.POLLIN)
            assert not poller.poll(seconds * 1000), f"child {self.pid} has ended"
        finally:
            os.close(handle)

    def kill(self) -> int:
        """Kill the child where it still runs, and return its exit code, or minus the signal."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        assert self._status is not None
        return self._status

    def wait(self) -> int:
        """Wait for the child's end, and return its exit code, or minus the signal."""
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
            os.close(self._ear)
        return self._status

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def _say(mouth: int) -> None:
    os.write(mouth, b".")
