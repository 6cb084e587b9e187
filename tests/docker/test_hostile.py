"""One frame of a real move is another: an error, one copy that runs on, and nothing left behind.

The mutations are those of tests.sessions; LIVEMIG_SEED chooses them. `pytest -k recorded` with
LIVEMIG_RECORD=FILE writes the session that the unit tests mutate (tests/data/session.xz).
"""

from __future__ import annotations

import json
import lzma
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from livemig.errors import InternalError
from livemig.frames import FrameType
from tests.conftest import NothingLeft
from tests.docker import meddler
from tests.docker.moves import LIMIT, Pair, answers, move, set_up, wrapped
from tests.fuzzing import SEED, scaled
from tests.hosts import Host
from tests.sessions import Raw, split

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

NAME = "meddled"
KEPT = 2048  # bytes of each payload that a recorded session keeps
CASES, MANY = scaled(3), scaled(60)


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    set_up(hosts)
    nothing_left.ignore("images")
    hosts[0].run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    with wrapped(hosts[1], meddler):
        yield hosts
    for path in (meddler.PLAN, *(meddler.RECORD.with_suffix(each) for each in (".to", ".from"))):
        hosts[1].path(str(path)).unlink(missing_ok=True)
    for host in hosts:
        host.run(["docker", "rm", "-f", NAME], check=False)


def plan(host: Host, *words: object) -> None:
    host.path(str(meddler.PLAN)).write_text(" ".join(map(str, words)))


def recorded(host: Host, direction: str) -> list[Raw]:
    return list(split(host.path(str(meddler.RECORD.with_suffix(f".{direction}"))).read_bytes()))


def compact(frames: list[Raw]) -> list[tuple[int, bytes, bytes]]:
    """Return frames without most of their payloads, and few of each type that came often."""
    seen: dict[int, int] = {}
    kept = []
    for frame in frames:
        seen[frame.kind] = seen.get(frame.kind, 0) + 1
        if seen[frame.kind] > 4 or frame.kind == FrameType.PING:
            continue
        if frame.kind == FrameType.PAGES and len(frame.payload) > KEPT:
            continue
        kept.append((frame.kind, frame.body, frame.payload[:KEPT]))
    return kept


def attempt(source: Host, target: Host) -> dict[str, Any] | None:
    """Move, whatever comes of it; return the error that was told."""
    argv = ["docker", "livemig", "--progress", "json", "--verify", "--timeout", "40"]
    result = source.run([*argv, NAME, target.name], timeout=LIMIT, check=False)
    if result.returncode == 0:
        return None
    error: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])["error"]
    return error


def running(pair: Pair) -> list[Host]:
    argv = ["docker", "ps", "-q", "--filter", f"name={NAME}", "--filter", "status=running"]
    return [host for host in pair if host.run(argv).stdout]


def test_one_frame_of_a_move_is_another(pair: Pair) -> None:
    meddle(pair, CASES)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_one_frame_of_many_moves_is_another(pair: Pair) -> None:
    meddle(pair, MANY)


def meddle(pair: Pair, cases: int) -> None:
    source, target = pair
    plan(target, "record")
    move(source, NAME, target)
    target.path(str(meddler.PLAN)).unlink()
    sessions = {direction: recorded(target, direction) for direction in ("to", "from")}
    if path := os.environ.get("LIVEMIG_RECORD"):
        body = {direction: compact(frames) for direction, frames in sessions.items()}
        Path(path).write_bytes(lzma.compress(msgpack.packb(body), preset=9))
    move(target, NAME, source)
    chance, changed = random.Random(SEED), 0
    for number in range(cases):
        direction = ("to", "from")[number % 2]
        frames = sessions[direction]
        places = [
            place
            for place, frame in enumerate(frames)
            if frame.kind != FrameType.PAGES or chance.random() < 0.1
        ]
        case = (direction, chance.choice(places), chance.randrange(2**31))
        print(f"LIVEMIG_SEED={SEED}: case {number}, {case}, {frames[case[1]].kind}", flush=True)
        plan(target, "change", *case)
        error = attempt(source, target)
        if (plan_left := target.path(str(meddler.PLAN))).exists():
            plan_left.unlink()  # this move had not as many frames
        else:
            changed += 1
        print(f"  {error}", flush=True)
        assert error is None or error["code"] != InternalError.code, error
        (home,) = running(pair)
        assert answers(home, NAME)
        if home is target:
            move(target, NAME, source)
    assert changed > cases // 2, f"only {changed} of {cases} moves had a frame that was changed"
