"""Which of the timers that vanish with a stop is taken for the thread's own."""

from __future__ import annotations

import time

import pytest

from livemig import interrupted
from livemig.calls import Left, Timed
from livemig.interrupted import Interruption, Look
from livemig.system import numbers as nr
from livemig.system.timerlist import Timer

SECOND = 10**9
CLOCK = time.CLOCK_MONOTONIC
TIMED = Timed(Left.KERNEL, 60 * SECOND, 0)


def timer(soft: int, clock: int = CLOCK) -> Timer:
    return Timer(clock, soft, soft + 50_000)


def deadline(
    monkeypatch: pytest.MonkeyPatch,
    gone: list[int],
    *,
    number: int = nr.NR_POLL,
    ran: float | None = 10.0,
) -> float:
    """Return the end, in seconds from now, of a wait of a minute that began 10 seconds ago."""
    now = time.monotonic_ns()
    monkeypatch.setattr(interrupted, "read_timers", frozenset)
    before = frozenset(timer(now + seconds * SECOND) for seconds in gone)
    entered = None if ran is None else now - int(ran * SECOND)
    call = Interruption(1)
    call.number = number
    call._find_end(TIMED, Look(number, "", before, {CLOCK: now}, entered))
    assert call.deadline is not None
    return (call.deadline - now) / SECOND


OWN = 50


def test_the_only_one_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for ran in (10.0, 3.0, None):
        assert deadline(monkeypatch, [OWN], ran=ran) == OWN


def test_of_several_it_is_the_one_that_was_armed_when_the_thread_ran_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert deadline(monkeypatch, [5, OWN, 58]) == OWN


@pytest.mark.parametrize("ran", [3.0, None], ids=["woken-meanwhile", "not-told"])
def test_where_nothing_tells_it_is_the_last(
    monkeypatch: pytest.MonkeyPatch, ran: float | None
) -> None:
    assert deadline(monkeypatch, [5, OWN, 20], ran=ran) == OWN


def test_one_that_cannot_be_its_own_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would have been armed later than now, has run out, or is not as long as the sleep."""
    assert deadline(monkeypatch, [5, -1, 61], number=nr.NR_NANOSLEEP) == pytest.approx(OWN)
    assert deadline(monkeypatch, [-1, 61]) == pytest.approx(OWN)


def test_without_any_the_wait_begins_when_the_thread_ran_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert deadline(monkeypatch, []) == pytest.approx(OWN)
    assert deadline(monkeypatch, [], ran=None) == pytest.approx(60)


def test_a_sleep_that_goes_on_has_a_timer_without_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(interrupted, "read_timers", frozenset)
    own = Timer(CLOCK, now + 20 * SECOND, now + 20 * SECOND)
    before = frozenset((own, timer(now + 40 * SECOND)))
    call = Interruption(1)
    call.number = nr.NR_NANOSLEEP
    call._find_end(TIMED, Look(nr.NR_RESTART_SYSCALL, "", before, {CLOCK: now}, now - SECOND))
    assert call.deadline == own.soft


def test_a_call_that_was_entered_after_the_look_has_its_whole_time() -> None:
    call = Interruption(1)
    call.number = nr.NR_POLL
    now = time.monotonic_ns()
    call._find_end(TIMED, None)
    assert call.deadline is not None
    assert (call.deadline - now) / SECOND == pytest.approx(60, abs=1)
