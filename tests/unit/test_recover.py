"""Recovering where something fails meanwhile: the operator's word counts only if nobody can say."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from docker_livemig import cli
from docker_livemig import recover as recovering
from docker_livemig.copies import Copy
from docker_livemig.engine_api import DEFAULT_SOCKET, address, connected
from docker_livemig.exits import EXIT_CODES
from docker_livemig.journal import Journal
from docker_livemig.messages import Settle
from docker_livemig.recover import decide_for_target, recover
from docker_livemig.requests import Outcome, Recover, Recovered
from docker_livemig.steps import SourceState, TargetState
from docker_livemig.sweep import refuse_handed_over
from livemig.errors import (
    Contradicted,
    HostUnreachable,
    InDoubt,
    LivemigError,
    NoDocker,
    NoSuchMove,
    UsageError,
)
from livemig.wire import to_wire
from tests.unit.journals import AWAY, Client, Other, arrive, begin
from tests.unit.test_containers import SPEC


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEMIG_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("docker_livemig.engine_api.connect", SimpleNamespace)
    return tmp_path


def reached(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setattr(recovering, "dial", lambda *_: Other(state))


def test_a_docker_of_ours_that_is_away_is_no_target_that_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs there, as the target has said: the operator's word would make a second copy."""
    journal = begin("m1", SourceState.COMMITTED)
    reached(monkeypatch, "running")

    def look(*_: Any) -> Copy:
        raise NoDocker("Docker does not answer")

    monkeypatch.setattr("docker_livemig.copies.look", look)
    with pytest.raises(NoDocker):
        recover(Recover("m1", force="abort"), cast("Any", Client()))
    assert journal.state == SourceState.COMMITTED
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: Copy("running", 1, frozen=True))
    with pytest.raises(Contradicted):
        recover(Recover("m1", force="abort"), cast("Any", Client()))


def test_a_docker_of_the_sources_that_is_away_is_no_source_that_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = arrive("m1", TargetState.READY)
    reached(monkeypatch, "")
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: Copy("paused", 1, frozen=True))

    def say_where(*_: Any) -> None:
        raise NoDocker("Docker on there does not answer")

    monkeypatch.setattr(recovering, "say_where", say_where)
    with pytest.raises(NoDocker):
        recover(Recover("m1", force="commit"), cast("Any", Client()))
    assert journal.state == TargetState.READY


HERE_YET, LEFT = "it is here, and has ended (exited)", "nothing of it is left here"


@pytest.mark.parametrize(
    ("state", "copy", "result", "words"),
    [
        (TargetState.READY, Copy("running", 1), "runs-here", "completed: it runs here"),
        (TargetState.READY, Copy("gone"), "ended", f"undone: {LEFT}"),
        (TargetState.RUNNING, Copy("running", 1), "runs-here", "completed: it runs here"),
        (TargetState.RUNNING, Copy("restarting"), "runs-here", "completed: it runs here"),
        (TargetState.RUNNING, Copy("exited"), "ended", f"completed: {HERE_YET}"),
        (TargetState.RUNNING, Copy("removing"), "ended", f"completed: {LEFT}"),  # --rm
        (TargetState.RUNNING, Copy("gone"), "ended", f"completed: {LEFT}"),
    ],
)
def test_what_became_of_the_copy_is_told(
    monkeypatch: pytest.MonkeyPatch, state: TargetState, copy: Copy, result: str, words: str
) -> None:
    """One that arrived and has ended since is the only one there is."""
    arrive("m1", state)
    reached(monkeypatch, "")
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: copy)
    monkeypatch.setattr("docker_livemig.copies.discard", lambda *_: None)
    monkeypatch.setattr(recovering, "say_where", lambda *_: None)
    client = Client()
    recover(Recover("m1"), cast("Any", client))
    (outcome,) = client.outcomes
    assert (outcome.result, outcome.text) == (result, words)


def recover_here() -> None:
    recover(Recover("m1", "commit"), cast("Any", Client()))


def recover_there() -> None:
    """Have the target ask its source."""
    decide_for_target(Settle("m1", "commit"), cast("Any", Other("running")))


@pytest.mark.parametrize("ask", [recover_here, recover_there])
def test_a_peer_that_is_just_dying_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, alone: list[str], ask: Callable[[], None]
) -> None:
    """It holds its lock until the last of its threads has ended."""
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: ALIVE)
    begin("m1", SourceState.COMMITTED)
    dying = Journal("m1")
    assert dying.take()
    end = threading.Timer(0.3, dying.leave)
    end.start()
    ask()
    end.join()
    assert alone == ["end"]


ALIVE, DEAD, REMOVED = Copy("paused", 1, frozen=True), Copy("exited"), Copy("gone")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have no way lead to the other host; return the list of what is done with the copy here."""
    done: list[str] = []

    def note(what: str) -> None:
        monkeypatch.setattr(f"docker_livemig.copies.{what}", lambda *_: done.append(what))

    for what in ("let_run", "end", "discard"):
        note(what)

    def dial(*_: Any) -> Any:
        raise AWAY

    monkeypatch.setattr(recovering, "dial", dial)
    return done


def ended(journal: Journal, force: Any) -> str | type[LivemigError]:
    """Return how a move ended, or the error that says why it did not."""
    client = Client()
    try:
        recover(Recover(journal.move_id, force), cast("Any", client))
    except LivemigError as error:
        return type(error)
    (outcome,) = client.outcomes
    return outcome.result


@pytest.mark.parametrize(
    ("state", "copy", "force", "result", "after", "acts"),
    [
        (SourceState.COMMITTED, ALIVE, "", InDoubt, "committed", []),
        (SourceState.COMMITTED, ALIVE, "commit", "runs-there", "committed", ["end"]),
        (SourceState.COMMITTED, ALIVE, "abort", "runs-here", "returned", ["let_run"]),
        # It is gone: it was handed over, and what the other host says of it changes nothing here.
        (SourceState.COMMITTED, REMOVED, "", "runs-there", "committed", []),
        (SourceState.COMMITTED, REMOVED, "commit", "runs-there", "committed", []),
        (SourceState.COMMITTED, REMOVED, "abort", Contradicted, "committed", []),
        (SourceState.FREEZING, DEAD, "", InDoubt, "freezing", []),
        (SourceState.FREEZING, DEAD, "commit", "runs-there", "committed", ["end"]),
        (SourceState.FREEZING, DEAD, "abort", "ended", "returned", ["let_run"]),
        # It was not handed over, and so it runs, whatever the operator takes it for.
        (SourceState.FREEZING, ALIVE, "", "runs-here", "returned", ["let_run"]),
        (SourceState.FREEZING, ALIVE, "abort", "runs-here", "returned", ["let_run"]),
        (SourceState.FREEZING, ALIVE, "commit", Contradicted, "returned", ["let_run"]),
        (SourceState.RETURNED, ALIVE, "commit", Contradicted, "returned", ["let_run"]),
        (TargetState.READY, ALIVE, "", InDoubt, "ready", []),
        (TargetState.READY, ALIVE, "abort", "ended", "lost", ["discard"]),
        (TargetState.LOST, ALIVE, "", "ended", "lost", ["discard"]),
        (TargetState.LOST, ALIVE, "abort", "ended", "lost", ["discard"]),
        (TargetState.LOST, ALIVE, "commit", Contradicted, "lost", ["discard"]),
        (TargetState.RUNNING, ALIVE, "", "runs-here", "running", []),
        (TargetState.RUNNING, DEAD, "", "ended", "running", []),
        (TargetState.RUNNING, ALIVE, "commit", "runs-here", "", []),
        (TargetState.RUNNING, ALIVE, "abort", Contradicted, "running", []),
    ],
)
def test_who_can_ask_nobody_goes_by_his_journal_and_then_by_the_operator(
    monkeypatch: pytest.MonkeyPatch,
    alone: list[str],
    state: SourceState | TargetState,
    copy: Copy,
    force: str,
    result: str | type[LivemigError],
    after: str,
    acts: list[str],
) -> None:
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: copy)
    journal = begin("m1", state) if isinstance(state, SourceState) else arrive("m1", state)
    assert (ended(journal, force), journal.state, alone) == (result, after, acts)


def test_what_the_operator_has_decided_is_not_in_doubt(
    monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    """The journal stays until its target is told; it may be that the copy here is kept, stopped."""
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: DEAD)
    journal = begin("m1", SourceState.COMMITTED)
    assert ended(journal, "") is InDoubt
    assert ended(journal, "commit") == "runs-there"
    assert ended(journal, "") == "runs-there"
    assert ended(journal, "abort") is Contradicted
    assert journal.state == SourceState.COMMITTED
    assert set(alone) == {"end"}


@pytest.mark.parametrize(("cut_short", "known"), [("m", "2"), ("m3", "no"), ("m11", "no")])
def test_an_id_that_is_not_that_of_one_move_ends_none(
    alone: list[str], cut_short: str, known: str
) -> None:
    """The operator has looked at one of them: the other may run where he does not think of it."""
    journals = [begin(move, SourceState.COMMITTED) for move in ("m1", "m2")]
    with pytest.raises(NoSuchMove, match=f"knows {known} moves .* '{cut_short}'"):
        recover(Recover(cut_short, "abort"), cast("Any", Client()))
    assert {journal.state for journal in journals} == {SourceState.COMMITTED}
    assert alone == []


@pytest.mark.parametrize("words", [("abort", ""), ("commit", ""), ("", "there")])
def test_the_operators_word_is_about_one_move(words: tuple[Any, str]) -> None:
    """Of two hosts that cannot be asked one may be dead, and the other run the container."""
    force, other = words
    journals = [begin(move, SourceState.COMMITTED) for move in ("m1", "m2")]
    with pytest.raises(UsageError, match="name it by its ID"):
        recover(Recover(force=force, other=other), cast("Any", Client()))
    assert {journal.state for journal in journals} == {SourceState.COMMITTED}


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), NoDocker("away"), KeyError("a defect")]
)
def test_what_stands_in_the_way_of_one_move_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    for move_id in ("m1", "m2"):
        begin(move_id, SourceState.COMMITTED)

    class Case:
        def __init__(self, _: object, journal: Journal, *__: object) -> None:
            self._id = journal.move_id

        def end(self) -> Outcome:
            if self._id == "m1":
                raise failure
            return Outcome(self._id, "", "runs-there", "")

    monkeypatch.setattr(recovering, "_Case", Case)
    client = Client()
    recover(Recover(), cast("Any", client))
    assert [(each.id, each.result) for each in client.outcomes] == [
        ("m1", "in-doubt"),
        ("m2", "runs-there"),
    ]
    assert str(failure) in client.outcomes[0].text


def test_what_stays_in_doubt_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    begin("m1", SourceState.COMMITTED)
    monkeypatch.setattr("docker_livemig.copies.look", lambda *_: ALIVE)

    def dial(*_: Any) -> Any:
        raise HostUnreachable("gone")

    monkeypatch.setattr(recovering, "dial", dial)
    client = Client()
    recover(Recover(), cast("Any", client))
    (outcome,) = client.outcomes
    assert outcome.result == "in-doubt"
    assert "there cannot be asked: gone; `docker livemig status` on both hosts" in outcome.text
    assert "`docker livemig recover m1 --commit`" in outcome.text


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize(
    ("results", "code"),
    [
        ((), 0),
        (("runs-here", "runs-there", "ended"), 0),
        (("runs-here", "in-doubt", "ended"), EXIT_CODES[InDoubt]),
    ],
)
def test_the_exit_code_tells_whether_a_move_stays_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
    results: tuple[str, ...],
    code: int,
) -> None:
    outcomes = tuple(Outcome(f"m{each}", "", each, f"so it is {each}") for each in results)
    monkeypatch.setattr("docker_livemig.client.end_moves", lambda *_: Recovered("here", outcomes))
    assert cli.main(["recover", "--format", form]) == code
    said = capsys.readouterr().out
    assert all(f"so it is {each}" in said for each in results)


def test_a_move_in_doubt_is_told_though_nobody_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recovered = Recovered("here", (Outcome("m1", "", "in-doubt", ""),))
    monkeypatch.setattr("docker_livemig.client.end_moves", lambda *_: recovered)
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["recover"]) == EXIT_CODES[InDoubt]


def test_each_move_is_ended_with_the_engine_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin("m1", SourceState.COMMITTED, engine="unix:///run/second.sock")
    begin("m2", SourceState.COMMITTED)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/first.sock")
    used = []

    def dial(*_: Any) -> Any:
        used.append(address())
        raise HostUnreachable("gone")

    monkeypatch.setattr(recovering, "dial", dial)
    recover(Recover(), cast("Any", Client()))
    assert used == ["unix:///run/second.sock", "unix:///run/first.sock"]


@pytest.mark.parametrize("before", [None, "unix:///run/first.sock", "ssh://elsewhere"])
def test_another_engine_is_this_hosts_for_a_while(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv("DOCKER_HOST", raising=False)
    else:
        monkeypatch.setenv("DOCKER_HOST", before)
    with connected("unix:///run/second.sock"):
        assert address() == "unix:///run/second.sock"
    assert os.environ.get("DOCKER_HOST") == before
    assert address() == (before if before and before.startswith("unix:") else DEFAULT_SOCKET)


@pytest.mark.parametrize(
    ("state", "details", "refused"),
    [
        (SourceState.BEGUN, {}, False),
        (SourceState.FREEZING, {}, True),
        (SourceState.COMMITTED, {}, True),
        (SourceState.RETURNED, {}, True),
        (SourceState.RETURNED, {"settled": True}, False),
    ],
)
def test_what_may_run_elsewhere_is_not_moved(
    state: SourceState, details: dict[str, Any], refused: bool
) -> None:
    begin("another", SourceState.COMMITTED, spec=to_wire(SPEC) | {"id": "f" * 64})
    begin("m1", state, **details)
    if refused:
        with pytest.raises(InDoubt, match=f"move m1 to there, which is {state}") as caught:
            refuse_handed_over(SPEC)
        assert "recover m1" in caught.value.hint
    else:
        refuse_handed_over(SPEC)
