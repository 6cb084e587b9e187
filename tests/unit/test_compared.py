"""What both sides compare before the copy counts: no two kernels are known that differ there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import xxhash

from docker_livemig import source
from docker_livemig.messages import PageDigest, Ready, State, state_digest
from docker_livemig.requests import Hello, MoveRequest
from docker_livemig.source import Move
from docker_livemig.target import Arrival
from livemig.errors import StateMismatch
from livemig.frames import Frame, FrameType
from livemig.model import Clocks, Image
from livemig.wire import to_wire

IMAGE = Image((), (), Clocks(0, 0))
START, END = 0x1000, 0x3000
SENT = b"sent" * ((END - START) // 4)


class Rebuilt(Exception):
    """The copy is rebuilt, with these pages to be compared once more."""


class Copy(Arrival):
    """An arrival that has its pages, of which the last byte may be another one."""

    def __init__(self, last: bytes) -> None:
        memory = bytes(START) + SENT[:-1] + last

        def rebuild(*_: Any, sent: object, **__: Any) -> None:
            raise Rebuilt(sent)

        self._incoming = cast(
            "Any",
            SimpleNamespace(read=lambda at, length: memory[at : at + length], rebuild=rebuild),
        )
        self._prepare = cast("Any", SimpleNamespace(seccomp=""))

    def take(self, digests: tuple[PageDigest, ...]) -> None:
        self._state(Frame(FrameType.STATE, to_wire(State(IMAGE, digests))))


def digests() -> tuple[PageDigest, ...]:
    middle = (END - START) // 2
    return tuple(
        PageDigest(1, START + at, START + at + middle, xxhash.xxh3_64_intdigest(SENT[at:][:middle]))
        for at in (0, middle)
    )


def test_a_page_that_differs_is_told_before_anything_is_rebuilt() -> None:
    with pytest.raises(StateMismatch, match="process 1: the pages at 0x2000 differ"):
        Copy(b"!").take(digests())


def test_pages_that_are_those_that_were_sent_are_looked_at_again_later() -> None:
    with pytest.raises(Rebuilt) as caught:
        Copy(SENT[-1:]).take(digests())
    assert caught.value.args == ([(0x1000, 0x2000), (0x2000, 0x3000)],)


def test_without_digests_nothing_is_compared() -> None:
    with pytest.raises(Rebuilt) as caught:
        Copy(b"!").take(())
    assert caught.value.args == (None,)


class Sending(Move):
    """A move whose process is frozen, with a target that has built what it says."""

    def __init__(self, built: int, *how: str) -> None:
        super().__init__(MoveRequest("one", "lmb"), cast("Any", SimpleNamespace(enter=lambda _: 0)))
        hello = Hello(1, "9.9.9", "peer", "lmb")
        ready = Ready(built, *how)
        self._session = cast(
            "Any", SimpleNamespace(send=lambda *_: None, expect=lambda *_: ready, hello=hello)
        )
        self._outgoing = cast("Any", SimpleNamespace(seal=lambda: None))
        self._meanwhile = cast("Any", SimpleNamespace(sealed=lambda: None))
        self._spec = cast("Any", SimpleNamespace(name="one"))
        self._resolved = cast("Any", SimpleNamespace(pid=1))
        self._digests = ()
        self._last_step = 0.0

    def send(self) -> None:
        self._send_state(IMAGE)


def test_a_target_that_built_another_state_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "refuse_kept", lambda *_: None)
    digest = state_digest(to_wire(State(IMAGE)))
    Sending(digest).send()
    with pytest.raises(StateMismatch, match="lmb built another state of one than") as why:
        Sending(digest ^ 1).send()
    assert "9.9.9 there" in why.value.hint


def test_a_device_that_was_passed_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "refuse_kept", lambda *_: None)
    digest = state_digest(to_wire(State(IMAGE)))
    move = Sending(digest, "stub", "/dev/livemig speaks version 9, not 1")
    move.send()
    assert move.layout == "stub"
    assert move.notes == [
        "lmb: its mremap device was passed over: /dev/livemig speaks version 9, not 1"
    ]
    move = Sending(digest, "device")
    move.send()
    assert not move.notes
