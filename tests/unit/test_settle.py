"""What the source decides, for whatever both journals say: never two copies, never none."""

from __future__ import annotations

import itertools

import pytest

from docker_livemig.settle import Verdict, decide
from docker_livemig.steps import SourceState

SOURCES = ["", *SourceState]
TARGETS = ["ready", "running", "lost", "unknown"]
EVERY = list(itertools.product(SOURCES, [True, False], TARGETS))


@pytest.mark.parametrize(("source", "lives", "target"), EVERY)
def test_no_verdict_makes_two_copies(source: str, lives: bool, target: str) -> None:
    verdict = decide(source, lives, target)
    runs_here = source in ("", "begun", "returned") and lives
    if verdict in (Verdict.COMMIT, Verdict.COMPLETE):
        assert not runs_here or source == ""  # where it knows nothing it has nothing to remove
    if verdict is Verdict.ABORT:
        assert target != "running"


@pytest.mark.parametrize(("source", "lives", "target"), EVERY)
def test_no_verdict_leaves_none(source: str, lives: bool, target: str) -> None:
    verdict = decide(source, lives, target)
    if verdict is Verdict.COMMIT:
        assert target == "ready"
    if verdict is Verdict.COMPLETE:
        assert target == "running"
    if verdict is Verdict.ABORT and not lives and target == "ready":
        # The copy here has ended, but not as one that was frozen for the move.
        assert source in ("", "begun", "returned")


def test_the_journal_of_the_source_decides() -> None:
    assert decide("committed", True, "ready") is Verdict.COMMIT
    assert decide("committed", True, "running") is Verdict.COMPLETE
    assert decide("freezing", True, "ready") is Verdict.ABORT
    assert decide("", False, "ready") is Verdict.ABORT


def test_what_is_the_last_copy_lives() -> None:
    assert decide("freezing", False, "ready") is Verdict.COMMIT
    assert decide("committed", True, "lost") is Verdict.ABORT


def test_what_neither_journal_settles_is_the_operators() -> None:
    assert decide("committed", True, "unknown") is Verdict.UNDECIDED
    assert decide("returned", True, "running") is Verdict.UNDECIDED
