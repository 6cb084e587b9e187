"""Mutated real sessions against what reads them, on both sides: an error of the tree, or frames.

LIVEMIG_SEED replays a run, LIVEMIG_FUZZ multiplies its length (1: more than 100,000 frames). The
session in tests/data was recorded by tests/docker/test_hostile.py.
"""

from __future__ import annotations

import lzma
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from docker_livemig import far
from docker_livemig.journal import Journal
from docker_livemig.messages import (
    Commit,
    Created,
    Finish,
    Finished,
    ImageLayers,
    Prepare,
    Prepared,
    Ready,
    Resume,
    Running,
    Settle,
    State,
    Status,
    state_digest,
)
from docker_livemig.requests import (
    Hello,
    MoveRequest,
    MoveSummary,
    Progress,
    Query,
    Recover,
    Recovered,
    Report,
)
from livemig.errors import InternalError, LivemigError
from livemig.frames import Assembler, Frame, FrameType, encode
from livemig.incoming import _check_order
from livemig.layout import difference, settled
from livemig.link import Link
from livemig.model import RoundStat
from livemig.pages import Batch, unpack
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.wire import from_wire, to_wire
from tests.fuzzing import SEED, mutated, scaled
from tests.sessions import Raw, mutated_session, split
from tests.unit.leftovers import nothing_left
from tests.unit.test_frames import feed
from tests.unit.test_shape import peak_memory

pytestmark = [pytest.mark.usefixtures(nothing_left.__name__), pytest.mark.timeout(180)]

SESSION = Path(__file__).resolve().parents[1] / "data" / "session.xz"
FRAMES = scaled(105_000)
LINKS = scaled(60)
JOURNALS = scaled(500)
SLOWEST = 5.0  # seconds that one session may take on a busy machine
MEMORY = 256 << 20
BODIES: dict[FrameType, type] = {
    FrameType.HELLO: Hello,
    FrameType.MOVE: MoveRequest,
    FrameType.PROGRESS: Progress,
    FrameType.SUMMARY: MoveSummary,
    FrameType.PREPARE: Prepare,
    FrameType.PREPARED: Prepared,
    FrameType.CREATED: Created,
    FrameType.ROUND_END: RoundEnd,
    FrameType.READY: Ready,
    FrameType.RUNNING: Running,
    FrameType.FINISHED: Finished,
    FrameType.RESUME: Resume,
    FrameType.STATUS: Status,
    FrameType.QUERY: Query,
    FrameType.REPORT: Report,
    FrameType.RECOVER: Recover,
    FrameType.RECOVERED: Recovered,
    FrameType.SETTLE: Settle,
}
MAY_BE_NIL: dict[FrameType, type] = {
    FrameType.IMAGE: ImageLayers,  # all but the first
    FrameType.COMMIT: Commit,
    FrameType.FINISH: Finish,
}
READ_APART = (FrameType.PAGES, FrameType.LAYOUT, FrameType.STATE)
WITHOUT_A_BODY = {
    *(FrameType.ERROR, FrameType.PING, FrameType.PONG, FrameType.ABORT, FrameType.ABORTED),
    *(FrameType.CANCEL, FrameType.IMAGE_DONE, FrameType.CREATE, FrameType.ROOTFS),
    *(FrameType.ROOTFS_DONE, FrameType.HOLD, FrameType.HELD, FrameType.FREEZE),
    *(FrameType.STDIN, FrameType.ROUND_DONE),
}
"""Or, where it is of an ERROR or ABORT, one that the link reads."""


def client_session() -> list[Raw]:
    """Return what a source's peer says to the client."""
    summary = MoveSummary("c", "f" * 64, "a", "b", "live", rounds=[RoundStat(1, 2)], notes=["n"])
    frames = [(FrameType.HELLO, far.facts("peer")), (FrameType.PROGRESS, Progress("round", "t"))]
    frames += [(FrameType.SUMMARY, summary)]
    data = b"".join(bytes(part) for kind, body in frames for part in encode(kind, to_wire(body)))
    return list(split(data))


def sessions() -> dict[str, list[Raw]]:
    """Return by name what one side reads in a move."""
    kept = msgpack.unpackb(lzma.decompress(SESSION.read_bytes()))
    found = {name: [Raw(*frame) for frame in kept[name]] for name in ("to", "from")}
    found["client"] = client_session()
    found["refusal"] = [*found["from"][:2], Raw(2, msgpack.packb({"code": "target", "hint": "h"}))]
    return found


class Reader:
    """Does with a frame what a peer does with it, as far as no process is needed for that."""

    def __init__(self) -> None:
        self._mappings: Any = ()

    def read(self, frame: Frame) -> None:
        if frame.type is FrameType.PAGES:
            unpack(from_wire(Batch, frame.body), frame.payload)
        elif frame.type is FrameType.LAYOUT:
            wanted = from_wire(LayoutUpdate, frame.body).layout.mappings
            _check_order(wanted)
            wanted = settled(self._mappings, wanted)
            difference(self._mappings, wanted)
            self._mappings = wanted
        elif frame.type is FrameType.STATE:
            state_digest(to_wire(from_wire(State, frame.body)))
        elif frame.type is FrameType.HELLO:
            far.read_hello("somebody", frame.body)
        elif frame.type in BODIES or (frame.type in MAY_BE_NIL and frame.body is not None):
            from_wire((BODIES | MAY_BE_NIL)[frame.type], frame.body)


def read_stream(data: bytes) -> int:
    """Read a session as it comes in; return the number of its frames, with the one that ends it."""
    reader, assembler, count = Reader(), Assembler(), 0
    try:
        for at in range(0, len(data), 4096):
            for frame in feed(assembler, data[at : at + 4096], 4096):
                count += 1
                reader.read(frame)
    except InternalError:
        raise
    except LivemigError:
        return count + 1
    return count


def cases(session: list[Raw], salt: str) -> Iterator[tuple[str, bytes]]:
    """Yield mutated sessions for ever, each with the words that replay it."""
    number = 0
    while True:
        chance = random.Random(f"{SEED} {salt} {number}")
        yield f"LIVEMIG_SEED={SEED}: {salt} {number}", mutated_session(chance, session)
        number += 1


def told(name: str, act: Callable[[], int]) -> int:
    """Act, and say which case it was where that fails or takes too long."""
    started = time.monotonic()
    try:
        result = act()
    except BaseException:
        print(name)
        raise
    assert time.monotonic() - started < SLOWEST, name
    return result


def test_every_body_is_read() -> None:
    assert {*BODIES, *MAY_BE_NIL, *READ_APART, *WITHOUT_A_BODY} == {*FrameType}


@pytest.mark.parametrize("name", ["to", "from", "client", "refusal"])
def test_a_session_as_it_was_is_read(name: str) -> None:
    session = sessions()[name]
    assert read_stream(b"".join(frame.encode() for frame in session)) == len(session)


def test_mutated_sessions_are_errors_or_frames() -> None:
    streams = {name: cases(session, name) for name, session in sessions().items()}
    peak_memory()
    before, count, made = peak_memory(), 0, 0
    while count < FRAMES:
        for stream in streams.values():
            name, data = next(stream)
            count += told(name, lambda data=data: read_stream(data))  # type: ignore[misc]
            made += 1
    print(f"{count} frames of {made} sessions")
    assert peak_memory() - before < MEMORY


@pytest.mark.parametrize("name", ["to", "from"])
def test_mutated_sessions_end_a_link(name: str) -> None:
    stream = cases(sessions()[name], name)
    for _ in range(LINKS):
        case, data = next(stream)
        told(case, lambda data=data: read_link(data))  # type: ignore[misc]


def read_link(data: bytes) -> int:
    """Write a session to a link from the other side, and hang up."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    descriptor = theirs.detach()
    count, reader = 0, Reader()
    with ours, Link(descriptor, descriptor, name="the other side") as link:
        ours.setblocking(False)
        rest = memoryview(data)
        try:
            while True:
                if rest and link.dead is None:
                    rest = _sent(ours, rest)
                if not rest:
                    ours.shutdown(socket.SHUT_WR)
                frame = link.poll(1.0 if not rest else 0.001)
                if frame is not None:
                    count += 1
                    reader.read(frame)
        except InternalError:
            raise
        except (LivemigError, BrokenPipeError, ConnectionResetError):
            return count


def _sent(sock: socket.socket, data: memoryview) -> memoryview:
    try:
        return data[sock.send(data) :]
    except BlockingIOError:
        return data


def test_garbage_in_a_journal_is_no_entry(tmp_path: Path) -> None:
    journal = Journal("m", tmp_path)
    journal.append("held", container="c" * 64, owner=[1, 2.5])
    journal.append("ready", container="c" * 64)
    whole = journal.path.read_bytes()
    chance = random.Random(SEED)

    junk = [b"[" * 100_000 + b"\n", b'{"state":' * 9000 + b"\n", b"1" * 9999 + b"\n", b"\n\n\xff"]
    for number in range(JOURNALS):
        data = mutated(chance, whole) + chance.choice([b"", *junk])
        journal.path.write_bytes(data)
        entries = told(f"LIVEMIG_SEED={SEED}: journal {number}", lambda: len(journal.read()))
        assert entries <= 4
        journal.append("running")
        last = journal.last()
        assert last is not None
        assert last.state == "running"
    assert os.listdir(tmp_path) == ["m"]
