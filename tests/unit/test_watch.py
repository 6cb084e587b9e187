"""The client's cancel and the time limits reach a move, wherever it waits."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from docker_livemig import watch as module
from docker_livemig.steps import ANSWER, LIMITS, SourcePhase
from docker_livemig.watch import ClientWatch
from livemig.errors import Cancelled, LivemigError, StepTimeout
from livemig.frames import FrameType
from livemig.link import Link
from livemig.stub.runner import RUN_LIMIT
from tests.unit.leftovers import nothing_left

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)


@dataclass
class Both:
    """The link to a client, and that to a target where the move waits."""

    client: Link
    target: Link


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    monkeypatch.setattr(module, "_LOOK", 0.02)
    monkeypatch.setattr(module, "_GRACE", 0.2)
    pairs = [[sock.detach() for sock in socket.socketpair()] for _ in range(2)]
    with (
        Link(pairs[0][0], pairs[0][0], name="client") as client,
        Link(pairs[1][0], pairs[1][0], name="target") as target,
    ):
        yield Both(client, target)
    for pair in pairs:
        os.close(pair[1])


@contextmanager
def not_before(limit: float) -> Iterator[None]:
    """Fail where what is done in the scope has ended before its limit, in s, was reached."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun >= limit


def test_the_other_side_waits_longer_than_what_it_waits_for() -> None:
    assert RUN_LIMIT < ANSWER


def test_the_limit_of_the_move_names_the_step(both: Both) -> None:
    late = r"longer than 1 s, in the step files"
    with not_before(1):
        watch = ClientWatch(both.client, 1)
        watch.attach(both.target)
        watch.enter(SourcePhase.FILES)
        with pytest.raises(StepTimeout, match=late):
            both.target.receive(5)
    watch.end()


def test_a_step_that_does_not_end_is_cancelled(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, SourcePhase.CREATE, 0.1)
    watch = ClientWatch(both.client)
    watch.attach(both.target)
    late = r"the step create did not end within 0\.1 s"
    with not_before(0.1):
        watch.enter(SourcePhase.CREATE)
        with pytest.raises(StepTimeout, match=late):
            both.target.receive(5)
    watch.end()


def test_a_step_that_hangs_elsewhere_is_given_up(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, SourcePhase.FREEZE, 0.1)
    gone, reasons = threading.Event(), list[LivemigError]()

    def hung(error: LivemigError) -> None:
        reasons.append(error)
        gone.set()

    watch = ClientWatch(both.client, hung=hung)
    watch.attach(both.target)
    with not_before(0.1 + module._GRACE):
        watch.enter(SourcePhase.FREEZE)
        assert gone.wait(5)
    assert isinstance(reasons[0], StepTimeout)


@pytest.mark.parametrize("phase", [SourcePhase.IMAGE, SourcePhase.LAST_ROUND, SourcePhase.ROUND])
def test_a_cancellation_ends_a_wait_that_has_no_limit(both: Both, phase: SourcePhase) -> None:
    """But for that of a round: the container runs, and the link will be spoken on again."""
    reasons = queue.Queue[LivemigError]()
    watch = ClientWatch(both.client, hung=reasons.put)
    watch.attach(both.target)
    watch.enter(phase)
    if phase is not SourcePhase.ROUND:
        with not_before(module._GRACE):
            watch.interrupt(Cancelled("nobody hears this"))
            assert isinstance(reasons.get(timeout=5), Cancelled)
    else:
        watch.interrupt(Cancelled("nobody hears this"))
        with pytest.raises(queue.Empty):
            reasons.get(timeout=3 * module._GRACE)
    watch.end()


def test_what_is_committed_is_not_cancelled(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, SourcePhase.COMMIT, 1.0)
    watch = ClientWatch(both.client, 1.0, hung=lambda _: pytest.fail("hung"))
    watch.attach(both.target)
    watch.enter(SourcePhase.COMMIT)
    watch.commit()
    assert both.target.poll(1.5) is None
    watch.end()


def test_a_cancellation_that_nobody_heard_of_is_forgotten_with_the_move(both: Both) -> None:
    """It comes between the last answer and the commit: the word to undo must not die of it."""
    watch = ClientWatch(both.client)
    watch.attach(both.target)
    watch.interrupt(Cancelled("enough"))
    with pytest.raises(Cancelled):
        watch.commit()
    watch.detach()
    both.target.send(FrameType.ABORT)
    watch.end()
