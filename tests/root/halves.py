"""A move whose two halves are processes of their own, which can be killed at any instant."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from livemig.errors import LinkLost
from livemig.frames import FrameType
from livemig.freezer import Freezer
from livemig.incoming import Incoming
from livemig.link import Link
from livemig.model import Image
from livemig.outgoing import Outgoing
from livemig.pages import Batch
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.system import ptrace
from livemig.system.memory import Memory
from livemig.wire import from_wire, to_wire
from tests import pace
from tests.root.apps import App
from tests.root.forked import Forked
from tests.root.loopback import CACHE, LAYOUT

SOURCE, TARGET = "source", "target"
ROUNDS = 2
ANSWER = pace.limit(20)
_STEPS = {
    SOURCE: ("prepare", "rounds", "freeze", "last round", "extract", "seal", "commit", "switch"),
    TARGET: ("fill", "rebuild", "seal", "ready", "run"),
}
Operation = tuple[str, int]
STEPS = [(side, step) for side in (SOURCE, TARGET) for step in _STEPS[side]]


class Board:
    """Shared memory that outlives both halves: where they are, and what was promised."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def step(self, side: str, name: str) -> None:
        self._memory[side == TARGET] = _STEPS[side].index(name)

    def where(self, side: str) -> str:
        return _STEPS[side][self._memory[side == TARGET]]

    def count(self, side: str) -> tuple[str, int]:
        """Count an operation, and return in which step it is, and how many were before it there."""
        place = self._place(step := (side, self.where(side)))
        before = int.from_bytes(self._memory[place : place + 4], "little")
        self._memory[place : place + 4] = (before + 1).to_bytes(4, "little")
        return step[1], before

    def operations(self, side: str) -> dict[str, int]:
        """Return how many operations were made in each step, those with none left out."""
        places = {step: self._place((side, step)) for step in _STEPS[side]}
        found = {
            step: int.from_bytes(self._memory[place : place + 4], "little")
            for step, place in places.items()
        }
        return {step: count for step, count in found.items() if count}

    @staticmethod
    def _place(step: tuple[str, str]) -> int:
        return 64 + 4 * STEPS.index(step)

    @property
    def committed(self) -> bool:
        return bool(self._memory[16])

    def commit(self) -> None:
        self._memory[16] = 1

    def close(self) -> None:
        self._memory.close()


class Halves:
    """Runs a move of ``source`` into ``target``; what is left of it is settled as a sweep does.

    ``last`` tells for a half before which operation it dies, on tracees, freezers and the link: in
    which step that is, and how many were made there before. ``foreign`` says that the target's
    kernel maps another vDSO.
    """

    def __init__(
        self,
        source: App,
        target: App,
        *,
        live: bool,
        last: dict[str, Operation] | None = None,
        foreign: bool = False,
    ) -> None:
        self.source, self.target, self._live = source, target, live
        self._foreign = foreign
        self._last = last or {}
        self.board = Board()
        ours, theirs = socket.socketpair()
        self.started = time.monotonic()
        self.halves = {
            SOURCE: Forked(lambda _: self._run(SOURCE, self._leave, ours, theirs)),
            TARGET: Forked(lambda _: self._run(TARGET, self._arrive, theirs, ours)),
        }
        ours.close()
        theirs.close()

    def kill(self, *sides: str) -> None:
        """Send SIGKILL to halves, at once."""
        for side in sides:
            with suppress(ProcessLookupError):
                os.kill(self.halves[side].pid, signal.SIGKILL)

    def settle(self) -> App:
        """Wait for the end of both, decide by what was promised, and return the one that runs.

        The other one is gone then. A half has done its work, has lost the other one, or was killed.
        """
        for side, half in self.halves.items():
            assert half.wait() in (0, -signal.SIGKILL), f"{side} failed, see its traceback"
        if self.board.committed:
            self.source.cgroup.freezer.freeze()
            with suppress(ProcessLookupError):
                os.kill(self.source.pid, signal.SIGKILL)
            self.source.cgroup.freezer.thaw()
            self.source.wait()
            self.source.pipes[0].close()
            self.target.follow(self.source)
            self.source.close()
            self.target.cgroup.freezer.thaw()
            return self.target
        self.target.close()
        self.source.cgroup.freezer.thaw()
        return self.source

    def died(self, side: str) -> bool:
        """Tell whether a half was killed before it had ended by itself."""
        return self.halves[side].wait() == -signal.SIGKILL

    # In the halves

    def _run(
        self, side: str, work: Callable[[Link], None], mine: socket.socket, other: socket.socket
    ) -> None:
        other.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        count_operations(self.board, side, self._last.get(side))
        descriptor = mine.detach()
        with Link(descriptor, descriptor, name="the other half") as link, suppress(LinkLost):
            work(link)
            link.flush(ANSWER)

    def _leave(self, link: Link) -> None:
        step = self.board.step
        with ExitStack() as undo:
            step(SOURCE, "prepare")
            app = self.source
            outgoing = Outgoing(app.pid, app.cgroup.freezer, app.streams(), CACHE)
            outgoing.foreign = self._foreign
            undo.callback(outgoing.release)
            outgoing.start(live=self._live)
            step(SOURCE, "rounds")
            for _ in range(ROUNDS if self._live else 0):
                self._round(outgoing, link)
            step(SOURCE, "freeze")
            outgoing.freeze()
            step(SOURCE, "last round")
            self._round(outgoing, link)
            step(SOURCE, "extract")
            image = outgoing.extract()
            step(SOURCE, "seal")
            link.send(FrameType.STATE, to_wire(image))
            outgoing.seal()
            link.expect(FrameType.READY, timeout=ANSWER)
            step(SOURCE, "commit")
            self.board.commit()
            undo.pop_all()
            link.send(FrameType.COMMIT)
            link.expect(FrameType.RUNNING, timeout=ANSWER)
            step(SOURCE, "switch")
            outgoing.kill()

    def _round(self, outgoing: Outgoing, link: Link) -> None:
        outgoing.round(link.send)
        link.expect(FrameType.ROUND_DONE, timeout=ANSWER)

    def _arrive(self, link: Link) -> None:
        step = self.board.step
        with ExitStack() as undo:
            step(TARGET, "fill")
            incoming = Incoming(self.target.pid, self.target.cgroup.freezer, layout=LAYOUT)
            undo.callback(incoming.close)
            while (frame := link.receive(ANSWER)).type is not FrameType.STATE:
                if frame.type is FrameType.LAYOUT:
                    incoming.follow(from_wire(LayoutUpdate, frame.body))
                elif frame.type is FrameType.PAGES:
                    incoming.write(from_wire(Batch, frame.body), frame.payload)
                else:
                    incoming.end_round(from_wire(RoundEnd, frame.body))
                    link.send(FrameType.ROUND_DONE)
            image = from_wire(Image, frame.body)
            step(TARGET, "rebuild")
            incoming.rebuild(image, filters=0)
            step(TARGET, "seal")
            incoming.seal(image)
            step(TARGET, "ready")
            link.send(FrameType.READY)
            link.expect(FrameType.COMMIT, timeout=ANSWER)
            step(TARGET, "run")
            incoming.thaw()
            link.send(FrameType.RUNNING)


def count_operations(board: Board, side: str, last: Operation | None) -> None:
    """Count what this process does from here on, and kill it before operation ``last``."""

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            if board.count(side) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return counting

    patch = pytest.MonkeyPatch()
    patch.setattr(ptrace, "_ptrace", counted(ptrace._ptrace))
    for kind, names in (
        (Memory, ("write",)),
        (Freezer, ("request_freeze", "thaw")),
        (Link, ("send",)),
    ):
        for name in names:
            patch.setattr(kind, name, counted(getattr(kind, name)))
