"""The client of a running move: what it is told, and how its Ctrl-C reaches the move."""

from __future__ import annotations

import threading
from contextlib import suppress

from docker_livemig.requests import Progress
from livemig.errors import Cancelled, LivemigError
from livemig.frames import FrameType
from livemig.link import Link
from livemig.model import RoundStat
from livemig.system.memory import PAGE_SIZE
from livemig.wire import to_wire


class ClientWatch:
    """Reads the client's frames in a thread of its own.

    CANCEL, or the client's end, interrupts the link to the target that ``attach`` named, so that
    whatever waits there raises Cancelled; so does the end of ``limit`` seconds, where it is not 0.
    After ``commit`` none of them has an effect any more.
    """

    def __init__(self, client: Link, limit: float = 0.0) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._cancelled: LivemigError | None = None
        self._committed = False
        threading.Thread(target=self._listen, name="client watch", daemon=True).start()
        if limit:
            reason = f"the move took longer than {limit:g} s"
            timer = threading.Timer(limit, self._cancel, (reason,))
            timer.daemon = True
            timer.start()

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
        progress = Progress(phase, text)
        if stat is not None:
            progress = Progress(
                phase, text, stat.number, stat.pages, stat.bytes, rate, dirty // PAGE_SIZE
            )
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
        with self._lock:
            if self._committed or self._cancelled is not None:
                return
            self._cancelled = Cancelled(f"{reason}; the container runs on at the source")
            if self._link is not None:
                self._link.interrupt(self._cancelled)
