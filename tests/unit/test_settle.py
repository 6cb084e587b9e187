"""What the source decides, for whatever both journals say: never two copies, never none."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from docker_livemig.settle import Verdict, decide
from docker_livemig.steps import SourceState

SOURCES = ["", *SourceState]
TARGETS = ["ready", "running", "lost", "unknown"]
PROTOCOL = (Path(__file__).resolve().parents[2] / "PROTOCOL.md").read_text()
HEAD = "| source's journal | its copy | target says | verdict |\n|---|---|---|---|\n"
ROWS: list[tuple[str, str, str, str]] = re.findall(
    r"^\| (.+?) \| (?:(.+?) )?\| (.+?) \| (.+) \|$", PROTOCOL.partition(HEAD)[2], re.MULTILINE
)
VERDICTS = {
    "COMMIT": Verdict.COMMIT,
    "the source's copy is removed": Verdict.COMPLETE,
    "ABORT": Verdict.ABORT,
    "in doubt": Verdict.UNDECIDED,
}
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


@pytest.mark.parametrize(("source", "lives", "target"), EVERY)
def test_the_verdict_is_that_of_the_specification(source: str, lives: bool, target: str) -> None:
    assert decide(source, lives, target) is specified(source, lives, target)


def specified(source: str, lives: bool, target: str) -> Verdict:
    """Return what the first row says that speaks of such a move."""
    for journal, copy, word, verdict in ROWS:
        if journal not in (source, "any other, or none") or (copy == "has ended" and lives):
            continue
        if word not in (target, "anything else"):
            continue
        runs = lives and source in ("begun", "returned")
        if runs and verdict.endswith("in doubt if it runs"):
            return Verdict.UNDECIDED
        return next(found for words, found in VERDICTS.items() if verdict.startswith(words))
    raise AssertionError("no row speaks of it")
