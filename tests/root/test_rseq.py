"""A thread that is stopped within a restartable sequence finds itself at its abort handler."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from livemig.system import procfs, ptrace
from tests.root.apps import LIMIT, App
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover
from tests.root.test_state import begin

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


UTIME = 13  # of /proc/PID/stat, in ticks


def await_ticks(pid: int) -> None:
    """Wait until it has spun for two of the kernel's ticks: what comes before takes none."""
    deadline = time.monotonic() + LIMIT
    enough = int(procfs.read_stat(pid)[UTIME]) + 2
    while int(procfs.read_stat(pid)[UTIME]) < enough:
        assert time.monotonic() < deadline, f"process {pid} does not spin"
        time.sleep(0.001)


def freeze_within(app: App, move: Mover, live: bool) -> Move:
    """Freeze it within its sequence, which it is to leave from then on."""
    app.tell("finish")
    start, end, released = (int(word, 16) for word in app.answer().split())
    await_ticks(app.pid)
    moving = move(app, live=live)
    moving.outgoing.freeze()
    assert start <= ptrace.get_registers(app.pid).rip < end
    with open(f"/proc/{app.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(released)
        memory.write(b"\1")
    moving.round()
    return moving


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
