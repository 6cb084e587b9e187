"""What a peer looks after when it starts, while other moves of the host come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from docker_livemig import hold, status, sweep
from docker_livemig.copies import Copy
from docker_livemig.journal import Journal
from docker_livemig.requests import MoveRequest, Query
from docker_livemig.steps import SourceState
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
    assert status._ask(view, Query()).startswith("cannot be asked")
    assert status.look(Ending("m1")) is None
    begin("m1")
    monkeypatch.setattr(Journal, "all", lambda: iter([Ending("m1"), Ending("m1")]))
    sweep.refuse_handed_over(SPEC)


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
