"""Journals of moves as either side leaves them behind, and hosts that answer who recovers them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from docker_livemig.copies import Copy
from docker_livemig.journal import Journal
from docker_livemig.messages import Status
from docker_livemig.requests import Hello, MoveRequest, Recovered
from docker_livemig.steps import SourceState, TargetState
from livemig.errors import HostError, HostUnreachable
from livemig.frames import FrameType
from livemig.wire import from_wire, to_wire
from tests.unit.test_containers import SPEC

AWAY = HostUnreachable("no route")


class Other:
    """The target's peer, which says where its copy stands."""

    def __init__(self, state: str) -> None:
        self._status = Status(state, "c" * 64)
        self.link = self
        self.name = "peer on there"

    def send(self, *_: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def poll(self, _: float) -> Any:
        return SimpleNamespace(type=FrameType.STATUS, body=to_wire(self._status))


class Client:
    """The command, which hears how each move ended."""

    def send(self, _: FrameType, body: Any) -> None:
        self.outcomes = from_wire(Recovered, body).outcomes


def begin(move_id: str, state: SourceState, **details: Any) -> Journal:
    journal = Journal(move_id)
    request = to_wire(MoveRequest(SPEC.name, "there"))
    known: dict[str, Any] = {"spec": to_wire(SPEC), "host": "there", "request": request}
    journal.begin(SourceState.BEGUN, **known | details)
    journal.append(state)
    journal.leave()
    return journal


def arrive(move_id: str, state: TargetState, **details: Any) -> Journal:
    journal = Journal(move_id)
    known: dict[str, Any] = {"spec": to_wire(SPEC), "source": "there", "address": "10.0.0.7"}
    journal.begin(TargetState.ACCEPTED, **known | details)
    journal.append(state, container="c" * 64)
    journal.leave()
    return journal


def answering(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Hello | HostError]) -> list[str]:
    """Have each host answer to ssh like that; return the list of those that were asked."""
    asked: list[str] = []

    def connect(to: Any, **_: Any) -> Any:
        asked.append(to.host)
        found = answers[to.host]
        if isinstance(found, HostError):
            raise found
        other = Other("running")
        return SimpleNamespace(hello=found, link=other, close=other.close)

    monkeypatch.setattr("docker_livemig.far.connect_ssh", connect)
    copy = Copy("paused", 1, frozen=True)
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: copy)
    return asked


def hello(machine: str) -> Hello:
    return Hello(1, "0.1.0", "peer", "there", machine=machine)
