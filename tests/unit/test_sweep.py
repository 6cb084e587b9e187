"""What a peer looks after when it starts, while other moves of the host come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from docker_livemig import hold, status, sweep
from docker_livemig.copies import Copy, spec_of
from docker_livemig.journal import Journal
from docker_livemig.requests import MoveRequest, Query
from docker_livemig.steps import SourceState, TargetState
from livemig.errors import InternalError
from livemig.wire import to_wire
from tests.unit.test_containers import SPEC

HELD, OTHERS, BROKEN = "a1" * 32, "b2" * 32, "c3" * 32
SECOND = "unix:///run/second.sock"


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEMIG_STATE_DIR", str(tmp_path / "moves"))
    monkeypatch.setenv("LIVEMIG_HOLD_DIR", str(tmp_path / "hold"))


def begin(move_id: str) -> Journal:
    journal = Journal(move_id)
    request = to_wire(MoveRequest(SPEC.name, "there"))
    journal.begin(SourceState.BEGUN, spec=to_wire(SPEC), host="there", request=request)
    journal.leave()
    return journal


class Ending(Journal):
    """A journal whose move ends between two looks at it."""

    def read(self) -> Any:
        found = super().read()
        self.remove()
        return found


def test_a_move_that_ends_meanwhile_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of a host that is drained, and a move that begins while another one ends."""
    monkeypatch.setattr(status, "_copy", lambda *_: "running")
    begin("m1")
    view = status.look(Ending("m1"))
    assert view is not None
    assert (view.state, view.other, view.container) == ("begun", "there", SPEC.name)
    assert status._ask(view, Query(), {}).startswith("cannot be asked")
    assert status.look(Ending("m1")) is None
    begin("m1")
    monkeypatch.setattr(Journal, "all", lambda: iter([Ending("m1"), Ending("m1")]))
    sweep.refuse_handed_over(SPEC)


def test_a_journal_that_names_no_container_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was damaged, or that another version wrote; `status` shows what is known."""
    monkeypatch.setattr(status, "_copy", lambda *_: "running")
    lines = begin("m1").path.read_text().replace('"pid"', '"number"')
    Journal("m1").path.write_text(lines)
    sweep.refuse_handed_over(SPEC)  # it was never stopped, whichever it is
    Journal("m1").append(SourceState.COMMITTED)
    for refusing in (lambda: sweep.refuse_handed_over(SPEC), lambda: spec_of(Journal("m1"))):
        with pytest.raises(InternalError, match="moves/m1/journal does not say which") as caught:
            refusing()
        assert "moves/m1" in caught.value.hint
    view = status.look(Journal("m1"))
    assert view is not None
    assert (view.state, view.other, view.container, view.copy) == ("committed", "there", "?", "?")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Two engines of one host, and the containers of each."""
    have: dict[str, set[str]] = {"": {HELD}, SECOND: {OTHERS}}

    @contextmanager
    def connected(to: str) -> Iterator[str]:
        yield to

    def look(api: str, container: str) -> Copy:
        return Copy("paused" if container in have[api] else "gone")

    monkeypatch.setattr(sweep, "connected", connected)
    monkeypatch.setattr("docker_livemig.copies.look", look)
    return have


def test_a_hold_is_forgotten_when_its_own_engine_has_no_such_container(
    engines: dict[str, set[str]],
) -> None:
    """Without it, `docker unpause` would thaw a copy that is complete."""
    hold.pend(HELD, Path("/bin/true"))
    hold.pend(OTHERS, Path("/bin/true"), SECOND)
    assert sweep.sweep(cast("Any", "")) == []
    assert hold.registered() == [HELD, OTHERS]
    engines[SECOND].clear()
    assert sweep.sweep(cast("Any", "")) == []
    assert hold.registered() == [HELD]


def test_a_damaged_hold_stands_in_no_other_moves_way(
    engines: dict[str, set[str]], tmp_path: Path
) -> None:
    hold.pend(HELD, Path("/bin/true"))
    (tmp_path / "hold" / f"{BROKEN}.json").touch()
    engines[""].clear()
    (line,) = sweep.sweep(cast("Any", ""))
    assert line.startswith(f"the hold of container {BROKEN[:12]}: ")
    assert "is damaged" in line
    assert hold.registered() == [BROKEN]


@pytest.mark.parametrize("state", [TargetState.READY, TargetState.STARTED])
def test_a_journal_with_a_hole_stands_in_no_other_moves_way(
    monkeypatch: pytest.MonkeyPatch, state: TargetState
) -> None:
    """The line that named the copy is damaged."""
    monkeypatch.setattr(sweep, "connected", nullcontext)
    journal = Journal("m1")
    journal.begin(TargetState.ACCEPTED, spec=to_wire(SPEC), source="there")
    journal.append(state)
    journal.leave()
    (line,) = sweep.sweep(cast("Any", None))
    assert "moves/m1/journal does not say which container" in line
