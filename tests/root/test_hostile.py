"""What a hostile source says to a held process: an error of the tree, soon, and nothing outside.

LIVEMIG_SEED replays a run, LIVEMIG_FUZZ multiplies its length.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livemig.errors import InternalError, LivemigError
from livemig.frames import FrameType, decode, decode_header, encode
from livemig.incoming import FEED_LIMIT, Incoming
from livemig.model import Image
from livemig.pages import Batch
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.stub import hold_path
from livemig.system import handles
from livemig.wire import from_wire, to_wire
from tests.fuzzing import SEED, scaled
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.loopback import LAYOUT, Mover
from tests.sessions import Raw, mutated_frame, split

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

CASES = scaled(100)
SLOWEST = FEED_LIMIT + 10.0  # seconds; standard input that fits no pipe waits for room


@pytest.fixture
def session(start: Start, move: Mover) -> list[Raw]:
    """Return the frames of a real move, source to target."""
    app = start("cat")
    assert app.ask("x") == "x"
    app.settle()
    moving = move(app, live=False)
    found: list[Raw] = []

    def send(kind: FrameType, body: Any, payload: Any = b"") -> None:
        found.extend(split(b"".join(bytes(part) for part in encode(kind, body, payload))))

    moving.outgoing.round(send)
    moving.outgoing.freeze()
    moving.outgoing.round(send)
    send(FrameType.STATE, to_wire(moving.outgoing.extract()))
    moving.give_up()
    assert app.ask("still") == "still"
    return found


def feed(incoming: Incoming, frames: list[Raw]) -> None:
    """Do with frames what a target's peer does."""
    for raw in frames:
        data = raw.encode()
        frame = decode(decode_header(data), data)
        if frame.type is FrameType.LAYOUT:
            incoming.follow(from_wire(LayoutUpdate, frame.body))
        elif frame.type is FrameType.PAGES:
            incoming.write(from_wire(Batch, frame.body), frame.payload)
        elif frame.type is FrameType.ROUND_END:
            incoming.end_round(from_wire(RoundEnd, frame.body))
        elif frame.type is FrameType.STATE:
            image = from_wire(Image, frame.body)
            incoming.rebuild(image)
            incoming.seal(image)


def attempt(held: App, frames: list[Raw]) -> LivemigError | None:
    """Feed a session to a held process, which is gone afterwards; return the error."""
    incoming = Incoming(held.pid, held.cgroup.freezer, layout=LAYOUT)
    try:
        feed(incoming, frames)
    except LivemigError as error:
        return error
    finally:
        incoming.close()
        held.close()
    return None


def test_a_session_as_it_was_is_taken(session: list[Raw], start: Start) -> None:
    assert attempt(start(hold_path()), session) is None


def test_mutated_sessions_are_errors_or_are_taken(session: list[Raw], start: Start) -> None:
    chance = random.Random(SEED)
    outcomes: dict[str, int] = {}
    few = [place for place, raw in enumerate(session) if raw.kind != FrameType.PAGES]
    for number in range(CASES):
        frames = list(session)
        place = chance.choice(few if chance.random() < 0.8 else range(len(frames)))
        frames[place] = mutated_frame(chance, frames[place])
        case = f"LIVEMIG_SEED={SEED}: case {number}, frame {place} of kind {session[place].kind}"
        started = time.monotonic()
        try:
            error = attempt(start(hold_path()), frames)
        except BaseException:
            print(case)
            raise
        assert not isinstance(error, InternalError), (case, error)
        assert time.monotonic() - started < SLOWEST, (case, error)
        code = error.code if error else "taken"
        outcomes[code] = outcomes.get(code, 0) + 1
    print(outcomes)
    assert outcomes["protocol"] > CASES // 20


# Paths


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """Yield a descriptor of a root directory with ways that seem to lead out of it."""
    inside = tmp_path / "root"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc" / "passwd").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    for name, to in {"abs": "/etc/passwd", "up": "../../secret", "out": str(tmp_path)}.items():
        (inside / name).symlink_to(to)
    (inside / "magic").symlink_to(f"/proc/self/root{tmp_path}/secret")
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "fifo")
    os.mknod(inside / "device", 0o020600, os.makedev(1, 5))
    descriptor = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def content(root: int, path: str) -> str:
    with open(handles.open_file_in_root(root, path, os.O_RDONLY)) as file:
        return file.read()


@pytest.mark.parametrize(
    "path", ["etc/passwd", "/etc/passwd", "abs", "../../etc/passwd", "/../abs"]
)
def test_a_path_is_one_below_the_root(root: int, path: str) -> None:
    assert content(root, path) == "inside"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("up", errno.ENOENT),
        ("out/secret", errno.ENOENT),
        ("../secret", errno.ENOENT),
        ("magic", errno.ENOENT),
        ("loop", errno.ELOOP),
        ("fifo", errno.EINVAL),
        ("device", errno.EINVAL),
        ("etc", errno.EINVAL),
        ("", errno.ENOENT),
        ("x" * 5000, errno.ENAMETOOLONG),
    ],
)
def test_no_path_leads_out_or_to_what_is_no_file(root: int, path: str, number: int) -> None:
    with pytest.raises(OSError, match=r"opening") as caught:
        content(root, path)
    assert caught.value.errno == number


def test_magic_links_of_proc_lead_nowhere() -> None:
    slash = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for path in ("/proc/self/root/etc/passwd", "/proc/self/cwd", "/proc/self/exe"):
            with pytest.raises(OSError, match="opening"):
                handles.open_in_root(slash, path, os.O_RDONLY)
    finally:
        os.close(slash)


def test_a_path_with_a_zero_byte_is_none(root: int) -> None:
    with pytest.raises(ValueError, match="no path"):
        handles.open_in_root(root, "etc/passwd\0/../x", os.O_RDONLY)
