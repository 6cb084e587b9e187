"""Undoing a move with a target that has lost us, or hears another's word by then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from docker_livemig import far, session
from docker_livemig.messages import Status
from docker_livemig.requests import MoveRequest
from docker_livemig.session import Session
from livemig.errors import InDoubt, LinkLost, LivemigError
from livemig.frames import Frame, FrameType
from livemig.wire import to_wire

Answer = Frame | LivemigError
ABORTED = Frame(FrameType.ABORTED, None)
LATE = Frame(FrameType.ROUND_DONE, None)
LOST = LinkLost("lmb closed the link")


def says(state: str) -> Frame:
    return Frame(FrameType.STATUS, to_wire(Status(state)))


class Target:
    """The peer on the target, with what it answers on each connection that is made to it."""

    def __init__(self, *connections: list[Answer]) -> None:
        self._connections = iter(connections)
        self.heard: list[list[str]] = []
        self.bytes_sent = 0
        self.dead: LivemigError | None = None

    def connect(self, *_: Any) -> Any:
        self._answers = iter(next(self._connections))
        self.heard.append([])
        self.dead = None
        hello = SimpleNamespace(host="lmb")
        return SimpleNamespace(link=self, hello=hello, close=lambda: None)

    def send(self, kind: FrameType, *_: Any) -> None:
        self.heard[-1].append(kind.name)

    def receive(self, _: float) -> Frame:
        answer = next(self._answers)
        if isinstance(answer, LivemigError):
            self.dead = answer
            raise answer
        return answer

    def expect(self, kind: FrameType, *, timeout: float) -> Frame:
        frame = self.receive(timeout)
        assert frame.type is kind
        return frame


@pytest.mark.parametrize(
    ("connections", "held", "heard", "error"),
    [
        ([[ABORTED]], False, [["ABORT"]], None),
        ([[LATE, LATE, ABORTED]], True, [["ABORT"]], None),
        # It cleans itself, where it cannot have been ready.
        ([[LOST]], False, [["ABORT"]], None),
        ([[LATE, LOST], [says("ready"), ABORTED]], True, [["ABORT"], ["RESUME", "ABORT"]], None),
        ([[LOST], [says("unknown"), ABORTED]], True, [["ABORT"], ["RESUME", "ABORT"]], None),
        # Its peer has not noticed yet that it has lost us.
        (
            [[LOST], [says("busy")], [LOST], [says("ready"), ABORTED]],
            True,
            [["ABORT"], ["RESUME"], ["RESUME"], ["RESUME", "ABORT"]],
            None,
        ),
        ([[LOST], [says("running")]], True, [["ABORT"], ["RESUME"]], InDoubt),
    ],
)
def test_the_word_to_undo_gets_there(
    monkeypatch: pytest.MonkeyPatch,
    connections: list[list[Answer]],
    held: bool,
    heard: list[list[str]],
    error: type[LivemigError] | None,
) -> None:
    target, raised = Target(*connections), None
    monkeypatch.setattr(far, "connect_far", target.connect)
    monkeypatch.setattr(session, "_FIRST_PAUSE", 0.0)
    try:
        Session(MoveRequest("web", "lmb"), "m1").abort(held=held, patience=10.0)
    except LivemigError as caught:
        raised = type(caught)
    assert (target.heard, raised) == (heard, error)
