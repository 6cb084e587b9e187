"""What is larger or slower than usual: a pipe, memory that was given up, a disk."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest

from livemig import rounds
from livemig.errors import InternalError, ProtocolError
from livemig.freezer import Freezer
from livemig.rounds import RoundEnd
from livemig.system import procfs
from livemig.tracing import StillRuns
from tests.root.conftest import Start
from tests.root.fuse import SlowFile
from tests.root.loopback import Mover
from tests.root.mapper import (
    ADVICE,
    ARENA,
    CALL,
    DIRECT,
    FILL,
    NR_GETPID,
    NR_MADVISE,
    NR_PREAD,
    PAGE,
    Mapper,
    make_file,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@pytest.fixture
def commanded(start: Start, programs: Path, tmp_path: Path) -> Mapper:
    """Start a program that carries out commands from its standard input."""
    return Mapper(start(programs / "mapper", make_file(tmp_path / "file")), 0)


@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
def test_standard_input_of_an_enlarged_pipe_arrives(
    commanded: Mapper, move: Mover, ended: bool
) -> None:
    """More than a pipe holds that nobody has enlarged."""
    fcntl.fcntl(commanded.app.pipes[0], fcntl.F_SETPIPE_SZ, 256 << 10)
    moving = move(commanded.app)
    moving.round()
    commanded.app.cgroup.freezer.freeze()
    for _ in range(3000):
        commanded.command(CALL, NR_GETPID)
    if ended:
        commanded.app.pipes[0].close()
    moving.freeze()
    commanded.app = moving.switch()
    assert commanded.answers() == [1] * 3000
    if ended:
        assert commanded.app.wait() == 0, "it has seen the end of its input"


def test_standard_input_that_has_ended_and_finds_no_room_is_told(
    commanded: Mapper, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pipe of a source holds what one here cannot: this one is not enlarged."""
    moving = move(commanded.app)
    moving.freeze()
    image = replace(moving.state(), stdin=bytes(256 << 10), stdin_ended=True)
    monkeypatch.setattr("livemig.inject.files.make_room", lambda *_: None)
    with pytest.raises(ProtocolError, match="262144 bytes of standard input fit no pipe"):
        moving.incoming.rebuild(image)
    moving.give_up()


def test_memory_that_was_given_up_is_told_in_one_piece(commanded: Mapper, move: Mover) -> None:
    """A frame has room for a million items: page by page, for a GiB."""
    commanded.map(ARENA, 500)
    commanded.command(FILL, 1, ARENA, 500 * PAGE)
    commanded.answers()
    moving = move(commanded.app)
    moving.round()
    assert commanded.call(NR_MADVISE, ARENA, 500 * PAGE, ADVICE["dontneed"]) == 0
    told: list[RoundEnd] = []
    end_round = moving.incoming.end_round
    moving.incoming.end_round = lambda end: told.append(end) or end_round(end)  # type: ignore[method-assign, func-returns-value]
    moving.round()
    assert told[0].dropped == ((ARENA, ARENA + 500 * PAGE),)


@pytest.mark.parametrize("spans", [1, 7, 250, 1000])
def test_memory_in_pieces_is_given_up_in_several_frames(
    commanded: Mapper, move: Mover, monkeypatch: pytest.MonkeyPatch, spans: int
) -> None:
    """Every other page: of some GiB their number has no room in one frame."""
    monkeypatch.setattr(rounds, "_SPANS", spans)
    commanded.map(ARENA, 500)
    commanded.command(FILL, 1, ARENA, 500 * PAGE)
    commanded.answers()
    moving = move(commanded.app)
    moving.round()
    for page in range(0, 500, 2):
        commanded.command(CALL, NR_MADVISE, ARENA + page * PAGE, PAGE, ADVICE["dontneed"])
    assert commanded.answers() == [0] * 250
    told: list[RoundEnd] = []
    end_round = moving.incoming.end_round
    moving.incoming.end_round = lambda end: told.append(end) or end_round(end)  # type: ignore[method-assign, func-returns-value]
    moving.round()
    assert [len(end.dropped) for end in told] == pieces(250, spans)
    assert [end.more for end in told] == [True] * (len(told) - 1) + [False]
    kept = [moving.incoming.read(ARENA + page * PAGE, PAGE) for page in range(500)]
    assert [any(each) for each in kept] == [False, True] * 250


def pieces(number: int, most: int) -> list[int]:
    return [most] * (number // most) + [number % most] * (number % most > 0)


def test_a_freeze_that_takes_too_long_leaves_the_source_running(
    start: Start, programs: Path, move: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a disk that does not answer, and for nothing else."""
    with SlowFile(tmp_path / "slow", b"late" * PAGE) as slow:
        app = start(programs / "mapper", make_file(tmp_path / "file"), slow.path)
        mapper = Mapper(app, 0)
        mapper.map(ARENA, 4)
        moving = move(app)
        moving.round()
        mapper.command(CALL, NR_PREAD, DIRECT, ARENA, 4 * PAGE, 0)
        slow.await_read()
        monkeypatch.setattr(Freezer, "freeze", partialmethod(Freezer.freeze, 0.3))
        with pytest.raises(InternalError, match="did not freeze"):
            moving.freeze()
        moving.give_up()
        slow.answer()
        assert mapper.answers() == [4 * PAGE]


def test_a_process_that_cannot_be_thawed_is_let_go(
    commanded: Mapper, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its disk so long that it does not stop; when it does, nobody may hold it."""

    def fail() -> None:
        commanded.app.cgroup.freezer.thaw()
        raise StillRuns(f"thread {commanded.app.pid} does not stop")

    moving = move(commanded.app)
    moving.freeze()
    monkeypatch.setattr(moving.outgoing, "_thaw_on_time", fail)
    with pytest.raises(StillRuns):
        moving.outgoing.release()
    assert procfs.read_status(commanded.app.pid)["TracerPid"] == "0"
    assert commanded.call(NR_GETPID) == 1
