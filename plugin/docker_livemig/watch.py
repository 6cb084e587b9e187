"""The client of a running move: what it is told, and how its Ctrl-C reaches the move."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from docker_livemig.exits import exit_code
from docker_livemig.requests import Progress
from docker_livemig.steps import LIMITS, SourcePhase, reach
from livemig.errors import Cancelled, LivemigError, StepTimeout
from livemig.frames import FrameType
from livemig.link import Link
from livemig.model import RoundStat
from livemig.system.memory import PAGE_SIZE
from livemig.wire import to_wire

_LOOK = 0.25  # seconds between two looks at the clock
_GRACE = 10.0  # seconds that a phase has to end once it was interrupted
_NO_LINK = frozenset({SourcePhase.IMAGE, SourcePhase.LAST_ROUND})
"""Phases without a limit in which the move may wait for what no interruption reaches, and somebody
waits with it: for Docker, or, the container being stopped, for a disk."""


class ClientWatch:
    """Reads the client's frames in a thread of its own, and watches the time in another.

    CANCEL, or the client's end, interrupts the link to the target that ``attach`` named, so that
    whatever waits there raises Cancelled; so does the end of ``limit`` seconds, where it is not 0.
    A phase that takes longer than its limit is interrupted with StepTimeout; where even that does
    not end it, or a cancellation not one without a limit, ``hung`` is called. After
    ``commit`` none of them has an effect any more.
    """

    def __init__(
        self, client: Link, limit: float = 0.0, hung: Callable[[LivemigError], None] | None = None
    ) -> None:
        self.move_id = ""
        """The move's ID, once it is in a journal: what the client needs where this peer dies."""
        self._client = client
        self._limit = limit
        self._hung = hung or self._die
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._cancelled: LivemigError | None = None
        self._cancelled_at = 0.0
        self._committed = False
        self._phase: SourcePhase | None = None
        self._started = self._entered = time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._listen, name="client watch", daemon=True).start()
        threading.Thread(target=self._watch_time, name="time limits", daemon=True).start()

    def enter(self, phase: SourcePhase) -> None:
        """Say which phase begins."""
        self._phase, self._entered = reach(phase), time.monotonic()

    def end(self) -> None:
        """Say that the move is over, one way or another: no limit holds any more."""
        self._ended.set()

    def report(
        self,
        phase: str,
        text: str = "",
        *,
        stat: RoundStat | None = None,
        rate: float = 0.0,
        dirty: int = 0,
    ) -> None:
        """Tell the client where the move is; one that is gone is no error here."""
        progress = Progress(phase, text, move=self.move_id)
        if stat is not None:
            figures = (stat.number, stat.pages, stat.bytes, rate, dirty // PAGE_SIZE)
            progress = Progress(phase, text, *figures, move=self.move_id)
        with suppress(LivemigError):
            self._client.send(FrameType.PROGRESS, to_wire(progress))

    def attach(self, link: Link) -> None:
        """Let a cancellation interrupt ``link`` from now on; Cancelled where it came already."""
        with self._lock:
            self._link = link
            if self._cancelled is not None:
                raise self._cancelled

    def detach(self) -> None:
        """Let a cancellation pass without effect: the move is being undone already."""
        with self._lock:
            if self._link is not None:
                self._link.forget_interrupt()
            self._link = None

    def commit(self) -> None:
        """Pass the point of no return; raises Cancelled where the client gave up before."""
        with self._lock:
            if self._cancelled is not None:
                raise self._cancelled
            self._committed = True
            self._link = None

    def _listen(self) -> None:
        try:
            while self._client.receive().type is not FrameType.CANCEL:
                pass
            reason = "the move was cancelled"
        except LivemigError:
            reason = "the command that asked for the move is gone"
        self._cancel(reason)

    def _cancel(self, reason: str) -> None:
        self.interrupt(Cancelled(f"{reason}; the container runs on at the source"))

    def interrupt(self, error: LivemigError) -> None:
        """Break the move off with this error, unless it is committed or broken off already."""
        with self._lock:
            if self._committed or self._cancelled is not None:
                return
            self._cancelled, self._cancelled_at = error, time.monotonic()
            if self._link is not None:
                self._link.interrupt(error)

    def _watch_time(self) -> None:
        while not self._ended.wait(_LOOK):
            now, phase = time.monotonic(), self._phase
            if self._committed:
                return
            if self._limit and now - self._started > self._limit:
                where = f", in the step {phase}" if phase else ""
                late = f"the move took longer than {self._limit:g} s{where}"
                self.interrupt(StepTimeout(f"{late}; the container runs on at the source"))
            limit = LIMITS.get(phase, 0.0) if phase else 0.0
            if limit and now - self._entered > limit:
                error = StepTimeout(f"the step {phase} did not end within {limit:g} s")
                self.interrupt(error)
                if now - self._entered > limit + _GRACE:
                    self._hung(error)
                    return
            if (unheard := self._unheard(phase, now)) is not None:
                self._hung(unheard)
                return

    def _unheard(self, phase: SourcePhase | None, now: float) -> LivemigError | None:
        """Return a cancellation that has not ended a phase without a limit in time."""
        with self._lock:
            if phase in _NO_LINK and self._link is not None and now - self._cancelled_at > _GRACE:
                return self._cancelled
            return None

    def _die(self, error: LivemigError) -> None:
        """Leave the move to the journal: what hangs is in the kernel, and cannot be undone here."""
        with suppress(LivemigError):
            self._client.send(FrameType.ERROR, error.to_wire())
            self._client.flush(_GRACE)
        os._exit(exit_code(error))
