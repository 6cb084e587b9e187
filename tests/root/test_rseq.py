"""A thread that is stopped within a restartable sequence finds itself at its abort handler."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from livemig.errors import NotCarried
from livemig.infect import Loan
from livemig.system import procfs, ptrace
from tests.root.apps import LIMIT, App
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover
from tests.root.test_state import begin

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


UTIME = 13  # of /proc/PID/stat, in ticks
ATTEMPTS = 10


def await_ticks(pid: int) -> None:
    """Wait until it has spun for two of the kernel's ticks: what comes before takes none."""
    deadline = time.monotonic() + LIMIT
    enough = int(procfs.read_stat(pid)[UTIME]) + 2
    while int(procfs.read_stat(pid)[UTIME]) < enough:
        assert time.monotonic() < deadline, f"process {pid} does not spin"
        time.sleep(0.001)


def enter(app: App) -> tuple[int, int, int]:
    """Let it spin within its sequence; return where that begins and ends, and what ends it."""
    app.tell("finish")
    start, end, released = (int(word, 16) for word in app.answer().split())
    await_ticks(app.pid)
    return start, end, released


def release(app: App, released: int) -> None:
    """Have it leave its sequence when it runs again."""
    with open(f"/proc/{app.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(released)
        memory.write(b"\1")


def freeze_within(app: App, move: Mover, live: bool) -> Move:
    """Freeze it within its sequence, which it is to leave from then on."""
    start, end, released = enter(app)
    for _ in range(ATTEMPTS):
        moving = move(app, live=live)
        await_ticks(app.pid)  # a live move has aborted it once by now
        moving.outgoing.freeze()
        if start <= ptrace.get_registers(app.pid).rip < end:
            release(app, released)
            moving.round()
            return moving
        moving.give_up()  # the kernel had preempted it just then, and so aborted it
    raise AssertionError(f"{ATTEMPTS} times it was not within its sequence")


def test_it_is_aborted_where_the_thread_cannot_be_borrowed(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on where it was stopped, and the kernel still knows of its sequence."""
    app = begin(start, programs, "restartable-sequence")
    _, _, released = enter(app)

    def find_none(*_: object) -> None:
        release(app, released)
        raise NotCarried("no room for a signal frame")

    monkeypatch.setattr(Loan, "_place_frames", find_none)
    with pytest.raises(NotCarried, match="no room"):
        move(app)
    assert app.answer() == "ok"


@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_it_is_aborted_on_the_target(start: Start, programs: Path, move: Mover, live: bool) -> None:
    app = begin(start, programs, "restartable-sequence")
    assert freeze_within(app, move, live).switch().answer() == "ok"


@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_it_is_aborted_on_the_source_when_the_move_is_given_up(
    start: Start, programs: Path, move: Mover, live: bool
) -> None:
    app = begin(start, programs, "restartable-sequence")
    moving = freeze_within(app, move, live)
    moving.state()
    moving.give_up()
    assert app.answer() == "ok"
