"""A committed move whose target does not confirm it: only a copy that is lost gives it back."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from docker_livemig.messages import Running, Status
from docker_livemig.requests import MoveRequest
from docker_livemig.session import Session
from docker_livemig.source import Move
from docker_livemig.watch import ClientWatch
from livemig.errors import DiskFull, InDoubt, LinkLost, LivemigError, TargetError, TransferError


class Far:
    """A target that says STATUS when it is called again, and answers COMMIT with an error."""

    def __init__(self, state: str, answer: LivemigError | None = None) -> None:
        self._status = Status(state)
        self._answer = answer

    def resume(self, _: float, go_on: Callable[[Status], Running]) -> Running:
        if self._status.state == "":
            assert self._answer
            raise self._answer
        return go_on(self._status)

    def send(self, *_: Any) -> None:
        pass

    def expect(self, *_: Any) -> Running:
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
        super().__init__(MoveRequest("one", "lmb"), cast("ClientWatch", Quiet()))
        self._session = cast("Session", far)
        self._commitment = cast("Any", None)
        self._spec = cast("Any", SimpleNamespace(name="one"))
        self.undone = False

    def _undo(self, reason: BaseException) -> None:  # noqa: ARG002
        self.undone = True

    def again(self) -> Running:
        return self._commit_again(LinkLost("the connection is lost"))


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
