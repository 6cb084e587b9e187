"""A committed move whose target does not confirm it: only a copy that is lost gives it back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from docker_livemig import copies, lifecycle, restarts
from docker_livemig.handover import Handover
from docker_livemig.messages import Finish, Finished, Running, Status
from docker_livemig.requests import MoveRequest
from docker_livemig.session import Session
from docker_livemig.source import Move
from docker_livemig.watch import ClientWatch
from livemig.errors import (
    DiskFull,
    HostUnreachable,
    InDoubt,
    LinkLost,
    LivemigError,
    TargetError,
    TransferError,
)
from livemig.outgoing import Outgoing


class Far:
    """A target that is lost, says STATUS when it is called again, and answers with an error."""

    def __init__(self, state: str, answer: LivemigError | None = None) -> None:
        self._status = Status(state)
        self._answer = answer
        self._lost = True

    def resume(self, _: float, go_on: Callable[[Status], Running]) -> Running:
        self._lost = False
        if self._status.state == "":
            assert self._answer
            raise self._answer
        return go_on(self._status)

    def send(self, *_: Any) -> None:
        pass

    def expect(self, *_: Any) -> Running:
        if self._lost:
            raise LinkLost("the connection is lost")
        if self._answer:
            raise self._answer
        return Running("there")


class Quiet:
    """A client that hears nothing."""

    def report(self, *_: Any) -> None:
        pass


class Committed(Move):
    """A move that is past its commit, and only notes that it was undone."""

    def __init__(self, far: Far) -> None:
        watch, nothing = cast("ClientWatch", Quiet()), cast("Any", None)
        super().__init__(MoveRequest("one", "lmb"), watch)
        spec, journal = (cast("Any", SimpleNamespace(name="one", move_id="1")) for _ in range(2))
        session = cast("Session", far)
        self._handover = Handover(
            nothing, spec, "lmb", journal, watch, nothing, session, nothing, self.notes
        )
        self._frozen_at = self._last_step = 0.0
        self.undone = False

    def _undo(self, reason: BaseException) -> None:  # noqa: ARG002
        self.undone = True

    def again(self) -> Running:
        return self._commit()


def test_it_is_completed_where_the_copy_runs_or_is_ready() -> None:
    for state in ("running", "ready"):
        assert isinstance(Committed(Far(state)).again(), Running)


def test_it_is_undone_where_the_copy_is_lost() -> None:
    move = Committed(Far("lost"))
    with pytest.raises(TargetError, match="runs on at the source"):
        move.again()
    assert move.undone


@pytest.mark.parametrize("error", [DiskFull("no room"), TargetError("held"), TransferError("?")])
@pytest.mark.parametrize("state", ["", "ready"])
def test_no_other_error_of_the_target_lets_the_source_run(state: str, error: LivemigError) -> None:
    """The copy may run there, on a disk so full that Docker cannot be told."""
    move = Committed(Far(state, error))
    with pytest.raises(InDoubt):
        move.again()
    assert not move.undone


@pytest.mark.parametrize(
    ("state", "said"), [("busy", "a peer on lmb is at work"), ("unknown", "is unknown there")]
)
def test_a_target_that_does_not_know_of_the_copy_lets_nothing_run(state: str, said: str) -> None:
    """Its disk may be another one, or a peer may be about to let the copy run."""
    move = Committed(Far(state))
    with pytest.raises(InDoubt, match=f"^container one was handed over to lmb, .*{said}") as caught:
        move.again()
    assert "`docker livemig recover 1`" in caught.value.hint
    assert not move.undone


class Undone(Move):
    """A move that is undone with a target that may be ready, and notes in which order."""

    def __init__(self, *failing: str, held: bool = True, defect: str = "") -> None:
        super().__init__(MoveRequest("one", "lmb"), cast("ClientWatch", SimpleNamespace()))
        self.watch.detach = lambda: None  # type: ignore[method-assign]
        self._meanwhile = cast("Any", SimpleNamespace(returned=lambda: None))
        self._spec = cast("Any", SimpleNamespace(name="one"))
        self._journal = cast("Any", SimpleNamespace(remove=lambda: self.do("remove")))
        self._held, self._failing, self._defect = held, failing, defect
        self.done: list[str] = []

    def do(self, what: str) -> None:
        if what in self._failing:
            raise OSError(28, f"{what}: no room")
        if what == self._defect:
            raise ValueError(what)
        self.done.append(what)

    def _note_return(self) -> None:
        self.do("note")

    def _release(self) -> None:
        self.do("release")

    def _restore_policy(self) -> None:
        self.do("policy")

    def _abort(self) -> None:
        self.do("abort")

    def undo(self) -> str:
        reason = TransferError("it broke")
        self._undo(reason)
        return reason.message


def test_the_source_runs_before_the_target_is_told_where_that_is_noted() -> None:
    move = Undone()
    assert move.undo() == "it broke"
    assert move.done == ["note", "release", "policy", "abort", "remove"]


def test_what_cannot_be_noted_is_true_before_the_source_runs() -> None:
    move = Undone("note")
    assert "note: no room" in move.undo()
    assert move.done == ["abort", "release", "policy"]
    move = Undone("note", held=False)
    move.undo()
    assert move.done == ["release", "policy", "abort"]


def test_a_defect_in_one_step_keeps_none_of_the_others_from_being_done() -> None:
    move = Undone(defect="policy")
    assert "ValueError: policy" in move.undo()
    assert move.done == ["note", "release", "abort"]


def test_nothing_runs_where_neither_side_can_be_told() -> None:
    move = Undone("note", "abort")
    assert "stays frozen here until then" in move.undo()
    assert move.done == []


@pytest.mark.parametrize("told", [False, True])
def test_who_was_told_to_end_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Whatever an engine that was restarted during the move made of the others."""
    done: list[str] = []
    monkeypatch.setattr(lifecycle, "restore_policy", lambda *_: done.append("policy"))
    monkeypatch.setattr(restarts, "start_again", lambda *_: done.append("start"))
    move = Move(MoveRequest("one", "lmb"), cast("ClientWatch", SimpleNamespace()))
    move._api, move._freezing, move._since = None, True, 0
    move._spec = cast("Any", SimpleNamespace(id="1"))
    move._meanwhile = cast("Any", SimpleNamespace(told_to_end=told))
    move._restore_policy()
    assert done == ["policy"] + ["start"] * (not told)


class Late:
    """A standard input that says something and fails."""

    def rest(self, _: float) -> Iterator[bytes]:
        yield b"late"
        raise OSError(errno.EIO, "reading what was typed")


class Finishing:
    """A move that is committed and runs there, whose copy here does what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kill: Callable[[], None]) -> None:
        self.ended: list[str] = []
        self.notes: list[str] = []
        self.doubts: list[str] = []
        monkeypatch.setattr(copies, "end", lambda *_: self.ended.append("container"))
        meanwhile = SimpleNamespace(
            await_restart=lambda: None,
            await_end=lambda: None,
            tell_stopped=lambda _, doubts: self.doubts.extend(doubts),
            last_word=Finish,
            notes=[],
        )
        session = SimpleNamespace(send=lambda *_: None, expect=lambda *_: Finished())
        parts = {
            "api": None,
            "spec": SimpleNamespace(name="one"),
            "host": "lmb",
            "journal": SimpleNamespace(move_id="1", remove=lambda: self.ended.append("journal")),
            "watch": SimpleNamespace(enter=lambda _: None, report=lambda *_: None),
            "meanwhile": meanwhile,
            "session": session,
            "outgoing": SimpleNamespace(kill=kill),
            "notes": self.notes,
        }
        self.handover = Handover(**cast("Any", parts))


def test_input_that_cannot_be_read_any_more_does_not_keep_the_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    move = Finishing(monkeypatch, lambda: None)
    move.handover.finish(Late())
    assert move.ended == ["container", "journal"]
    assert "late standard input may be lost" in move.notes[0]


def test_a_target_that_does_not_confirm_the_end_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever stopped the container meanwhile is not told that it was stopped there."""

    def resume(*_: Any) -> Any:
        raise HostUnreachable("gone")

    def send(*_: Any) -> None:
        raise LinkLost("the connection is lost")

    move = Finishing(monkeypatch, lambda: None)
    session = SimpleNamespace(send=send, resume=resume)
    monkeypatch.setattr(move.handover, "session", session)
    move.handover.finish(None)
    assert move.doubts == move.notes == ["lmb did not confirm the end: gone"]


def test_a_copy_that_cannot_be_ended_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no error: the container runs on the target."""

    def kill() -> None:
        raise OSError(errno.ENODEV, "thawing")

    move = Finishing(monkeypatch, kill)
    move.handover.finish(None)
    assert "`docker livemig recover 1` does that" in move.notes[0]


def test_what_was_killed_by_others_is_ended() -> None:
    """From the host, or for want of memory, between the commit and its end."""
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    thawed: list[bool] = []
    freezer = SimpleNamespace(processes=lambda: [gone], thaw=lambda: thawed.append(True))
    outgoing = SimpleNamespace(properties=SimpleNamespace(close=lambda: None), freezer=freezer)
    Outgoing.kill(cast("Outgoing", outgoing))
    assert thawed
