"""The tracer dies at any instant, and the program that it was working on never notices."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from livemig.system import procfs, ptrace
from livemig.system.memory import Memory
from tests.root.apps import App
from tests.root.borrower import Borrower
from tests.root.forked import Forked, Say
from tests.root.loopback import Mover
from tests.root.test_borrow import (
    after_nap,
    after_over,
    after_read,
    after_spin,
    nap,
    over,
    read,
    spin,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

SEED = int(os.environ.get("LIVEMIG_SEED", "0"))
RANDOM_DEATHS = int(os.environ.get("LIVEMIG_DEATHS", "100"))
LONGEST = 0.02  # seconds, several times what one borrowing takes
Step = Callable[[App], None]


def quick(app: App) -> None:
    """Let it answer: it compares all registers each time."""
    assert app.ask("seen").count(" ") == 3


def back(app: App) -> None:
    """Wait until it is back from where the tracer had sent it: its signals are not blocked then."""
    deadline = time.monotonic() + 5
    while int(procfs.read_status(app.pid)["SigBlk"], 16) >> 63:
        assert time.monotonic() < deadline, f"{app.pid} did not come back"
        time.sleep(0.0005)


DOING: dict[str, tuple[Step, Step, Step]] = {
    "reading": (read, quick, after_read),
    "spinning": (spin, back, after_spin),
    "on-alternate-stack": (over, quick, after_over),
}


@pytest.fixture(params=DOING)
def doing(request: pytest.FixtureRequest, carried: App) -> tuple[App, Step, Step]:
    """Return a busy program, what tells quickly that it is well, and what tells it in full."""
    begin, between, end = DOING[request.param]
    assert carried.ask("check") == "ok"
    begin(carried)
    return carried, between, end


def left(app: App) -> tuple[object, object]:
    """Return what a tracer could have left in a process: memory, and descriptors."""
    areas = [area for area in procfs.read_areas(app.pid) if not area.name.startswith("[")]
    return [(area.start, area.end, area.prot) for area in areas], procfs.descriptors(app.pid)


def die_before(step: int) -> None:
    """Kill this process before its ``step``-th operation on a tracee from here on."""
    left = step

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return counted

    patch = pytest.MonkeyPatch()
    patch.setattr(ptrace, "_ptrace", counting(ptrace._ptrace))
    patch.setattr(Memory, "write", counting(Memory.write))


def kill_at(borrower: Borrower, step: int) -> int:
    """Let a tracer do all that it does, and die before ``step``; return its status, 0 if done."""

    def work(_: Say) -> None:
        die_before(step)
        with borrower.stopped():
            borrower.work(calls=3)

    with Forked(work) as child:
        return child.wait()


def test_death_before_each_operation(doing: tuple[App, Step, Step], scope: ExitStack) -> None:
    app, between, end = doing
    borrower = Borrower(app)
    scope.callback(borrower.close)
    steps = 0
    before = left(app)
    while (status := kill_at(borrower, steps)) != 0:
        assert status == -signal.SIGKILL
        between(app)
        assert left(app) == before, f"a death before step {steps} has left something"
        steps += 1
    assert steps > 30, "attaching, borrowing, infecting, running and giving back take more"
    end(app)
    print(f"{steps} deaths")


def test_a_sleep_survives_deaths(carried: App, scope: ExitStack) -> None:
    """It may start over, for that is all that a signal frame can do; it is never cut short.

    The first stop tells which call it is; later ones show restart_syscall alone.
    """
    borrower = Borrower(carried)
    scope.callback(borrower.close)
    nap(carried)
    with borrower.stopped():
        pass
    for step in range(0, 39, 2):
        assert kill_at(borrower, step) in (0, -signal.SIGKILL)
        back(carried)
    after_nap(carried)


def test_a_move_succeeds_after_deaths(carried: App, scope: ExitStack, move: Mover) -> None:
    borrower = Borrower(carried)
    scope.callback(borrower.close)
    carried.settle()
    for step in (12, 20, 28):
        assert kill_at(borrower, step) == -signal.SIGKILL
        quick(carried)
    after_read(move(carried).run())


def test_death_at_random_instants(doing: tuple[App, Step, Step], scope: ExitStack) -> None:
    app, between, end = doing
    borrower = Borrower(app)
    scope.callback(borrower.close)
    chance = random.Random(SEED)

    def work(say: Say) -> None:
        borrower.tracee.attach()
        while True:
            borrower.tracee.stop()
            say()
            borrower.work(calls=chance.choice((1, 50, 500)))
            borrower.tracee.resume()

    for _ in range(RANDOM_DEATHS):
        with Forked(work) as child:
            assert child.hear()
            child.pause(chance.random() * LONGEST)
            assert child.kill() == -signal.SIGKILL
        between(app)
    end(app)
