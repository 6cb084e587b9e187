"""The way to the other host of a move: which places are asked, and whose word counts then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from docker_livemig.recover import recover
from docker_livemig.requests import MoveRequest, Recover
from docker_livemig.steps import SourceState, TargetState
from docker_livemig.way import dial
from livemig.errors import (
    HostError,
    HostUnreachable,
    InDoubt,
    NoPlugin,
    UsageError,
    VersionMismatch,
)
from livemig.wire import to_wire
from tests.unit.journals import AWAY, Client, answering, arrive, begin, hello
from tests.unit.test_containers import SPEC

HERE, ELSEWHERE = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def _state(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEMIG_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("docker_livemig.engine_api.connect", SimpleNamespace)


@pytest.mark.parametrize("why", [VersionMismatch("speaks protocol 2"), NoPlugin("not installed")])
@pytest.mark.parametrize("force", ["abort", "commit"])
def test_a_host_that_answers_in_vain_can_be_asked(
    monkeypatch: pytest.MonkeyPatch, why: HostError, force: Any
) -> None:
    """The container may run there: whoever says otherwise has to look, and to mend that first."""
    ours = [begin("m1", SourceState.COMMITTED), arrive("m2", TargetState.READY)]
    answering(monkeypatch, {"there": why, "10.0.0.7": AWAY})
    for journal in ours:
        state = journal.state
        with pytest.raises(type(why)):
            recover(Recover(journal.move_id, force), cast("Any", Client()))
        assert journal.state == state


def test_another_machine_of_that_name_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows of no move, which would be the end of a copy that is complete."""
    journal = arrive("m1", TargetState.READY, machine=HERE)
    answering(monkeypatch, {"there": hello(ELSEWHERE), "10.0.0.7": AWAY})
    with pytest.raises(InDoubt, match="there is another machine"):
        recover(Recover("m1"), cast("Any", Client()))
    assert journal.state == TargetState.READY


@pytest.mark.parametrize(("known", "found"), [(HERE, HERE), ("", HERE), (HERE, "")])
def test_the_address_that_a_move_came_from_is_asked_before_a_name(
    monkeypatch: pytest.MonkeyPatch, known: str, found: str
) -> None:
    journal = arrive("m1", TargetState.READY, machine=known)
    asked = answering(monkeypatch, {"10.0.0.7": hello(found), "there": AWAY})
    dial(journal, Recover("m1"), {}).close()
    assert asked == ["10.0.0.7"]


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("2001:db8::5", "2001:db8::5"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("10.0.0.7", "10.0.0.7"),
        ("no host+", "there"),
    ],
)
def test_what_was_noted_of_the_source_leads_there(
    monkeypatch: pytest.MonkeyPatch, address: str, host: str
) -> None:
    """SSH_CONNECTION has an address of IPv6 without brackets; what is no host is no way."""
    journal = arrive("m1", TargetState.READY, address=address)
    asked = answering(monkeypatch, {host: hello(HERE)})
    dial(journal, Recover("m1"), {}).close()
    assert asked == [host]


def test_the_way_that_the_operator_names_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = arrive("m1", TargetState.READY)
    answering(monkeypatch, {"10.0.0.7": hello(HERE)})
    with pytest.raises(UsageError, match="HOST 'no host' is not valid"):
        dial(journal, Recover("m1", other="no host"), {})


def test_an_account_that_is_gone_stands_in_no_ones_way(monkeypatch: pytest.MonkeyPatch) -> None:
    request = to_wire(MoveRequest(SPEC.name, "there", run_ssh_as="livemig-nobody-of-that-name"))
    journal = begin("m1", SourceState.COMMITTED, request=request)
    ran: list[str] = []

    def connect(*_: Any, user: str, **__: Any) -> Any:
        ran.append(user)
        raise AWAY

    monkeypatch.setattr("docker_livemig.far.connect_ssh", connect)
    with pytest.raises(HostUnreachable):
        dial(journal, Recover("m1"), {})
    assert ran == [""]


def test_a_host_that_is_away_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for move_id in ("m1", "m2", "m3"):
        begin(move_id, SourceState.COMMITTED)
    asked = answering(monkeypatch, {"there": AWAY})
    client = Client()
    recover(Recover(), cast("Any", client))
    assert [each.result for each in client.outcomes] == ["in-doubt"] * 3
    assert asked == ["there"]
