"""How many rounds are sent while the container runs, and what each of them was."""

from __future__ import annotations

import time
from dataclasses import replace

from docker_livemig.requests import MoveRequest
from docker_livemig.session import Session
from docker_livemig.steps import SourcePhase
from docker_livemig.watch import ClientWatch
from livemig.frames import FrameType
from livemig.model import RoundStat
from livemig.outgoing import Outgoing
from livemig.system.memory import PAGE_SIZE

_MIN_ROUNDS = 2
_SHRINKING = 0.8  # a round that leaves more than this share of what it found is one of the last


class Pace:
    """Sends the rounds of one move, and keeps their figures in ``done``.

    ``notes`` gets what the user should know of them.
    """

    def __init__(
        self,
        request: MoveRequest,
        watch: ClientWatch,
        session: Session,
        outgoing: Outgoing,
        notes: list[str],
    ) -> None:
        self._request = request
        self._watch = watch
        self._session = session
        self._outgoing = outgoing
        self._notes = notes
        self.done: list[RoundStat] = []

    def iterate(self) -> None:
        """Send rounds until what is left fits the downtime, or they stop shrinking.

        More of them would not help then: it is written as fast as it is sent.
        """
        fastest, before, left, millis = 1.0, 0, 0, 0.0
        while len(self.done) < self._request.max_rounds:
            self._watch.enter(SourcePhase.ROUND)
            started = time.monotonic()
            stat = self.round()
            if stat.pages:
                fastest = max(fastest, stat.pages * PAGE_SIZE / (time.monotonic() - started))
            left = self._outgoing.waiting()
            self._watch.report("round", stat=stat, rate=fastest, dirty=left)
            millis = left / fastest * 1000
            fits = millis <= self._request.downtime_limit_ms
            if len(self.done) >= _MIN_ROUNDS and (fits or left > before * _SHRINKING):
                break
            before = left
        if millis > self._request.downtime_limit_ms:
            self._notes.append(
                f"the container was frozen with {left >> 20} MiB left to send, which takes about "
                f"{millis:.0f} ms (--downtime-limit {self._request.downtime_limit_ms}): after "
                f"{len(self.done)} rounds it still wrote as much as was sent meanwhile"
            )

    def round(self) -> RoundStat:
        """Send one round and wait until the target has it."""
        self.send()
        return self.confirm()

    def send(self) -> None:
        """Send one round; ``confirm`` comes before anything else is sent."""
        self._started, self._sent = time.monotonic(), self._session.bytes_sent
        self._stat = self._outgoing.round(self._session.link.send)

    def confirm(self) -> RoundStat:
        """Wait until the target has what was sent."""
        self._session.confirm(FrameType.ROUND_DONE)
        result = replace(
            self._stat,
            bytes=self._session.bytes_sent - self._sent,
            millis=(time.monotonic() - self._started) * 1000,
        )
        self.done.append(result)
        return result
