"""A signal that comes when the state has left already: the copy would not have it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from livemig.errors import Cancelled
from tests.root.apps import App
from tests.root.loopback import Mover

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@pytest.mark.parametrize("sealed", [False, True], ids=["traced", "sealed"])
def test_it_breaks_the_move_off_and_arrives_at_the_source(
    carried: App, move: Mover, sealed: bool
) -> None:
    before = seen(carried)
    moving = move(carried)
    moving.round()
    moving.freeze()
    moving.state()
    moving.outgoing.refuse_signals()
    if sealed:
        moving.outgoing.seal()
    os.kill(carried.pid, signal.SIGHUP)
    with pytest.raises(Cancelled, match=f"process {carried.pid} was sent SIGHUP when"):
        moving.outgoing.refuse_signals()
    moving.give_up()
    assert seen(carried) == before + 1


def test_what_was_pending_before_has_left_with_the_state(carried: App, move: Mover) -> None:
    before = seen(carried)
    moving = move(carried)
    moving.freeze()
    os.kill(carried.pid, signal.SIGHUP)
    moving.state()
    moving.outgoing.refuse_signals()
    moving.give_up()
    assert seen(carried) == before + 1


def test_its_own_timers_break_nothing_off(carried: App, move: Mover) -> None:
    """They go off while it stands still: every few milliseconds here."""
    assert carried.ask("tick") == "ticking"
    moving = move(carried)
    moving.round()
    moving.freeze()
    image = moving.state()
    moving.outgoing.seal()
    mask = 1 << signal.SIGALRM - 1
    while not int(status(carried.pid)["ShdPnd"], 16) & mask:
        pass
    moving.outgoing.refuse_signals()
    assert any(image.processes[0].interval_timers[0])
    moving.give_up()
    assert carried.ask("ticks") == "ticked"


def seen(app: App) -> int:
    """Return how many SIGHUP it has had."""
    return int(app.ask("seen").split()[2])


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
