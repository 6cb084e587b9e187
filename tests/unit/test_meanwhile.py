"""What Docker's events mean for a move, before the freeze, in it, and after the commit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from docker_livemig import engine_api, health, heldwatch, lifecycle, meanwhile
from docker_livemig.events import CAME_BACK, stop_signal
from docker_livemig.meanwhile import Meanwhile
from docker_livemig.messages import Finish
from livemig.errors import (
    Cancelled,
    LivemigError,
    NotCarried,
    NotRunning,
    Paused,
    ProcessGone,
    StateMismatch,
    TargetError,
)
from tests.unit.test_containers import SPEC

NO, ALWAYS = {"Name": "no", "MaximumRetryCount": 0}, {"Name": "always", "MaximumRetryCount": 0}


class FakeEngine:
    """Shows a container that has changed."""

    host_config: dict[str, Any] = {}  # noqa: RUF012

    def inspect_container(self, _: str) -> dict[str, Any]:
        return {"HostConfig": self.host_config}


class FakeProcess:
    """Says whether it ends; the next one does not."""

    ending = False

    def __init__(self) -> None:
        self._ended = self.ending

    def ends(self) -> bool:
        return self.ending and not self._ended


class FakeEvents:
    """Says what a test says."""

    last: FakeEvents

    def __init__(
        self,
        api: object,
        container: str,
        since: int,
        hear: Callable[[str, dict[str, str]], None],
        over: Callable[[], None],
    ) -> None:
        assert isinstance(api, FakeEngine)
        assert container
        assert since >= 0
        self.say, self.over = hear, over
        FakeEvents.last = self

    def close(self) -> None:
        """End."""


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (meanwhile, heldwatch):
        monkeypatch.setattr(module, "Events", FakeEvents)
    monkeypatch.setattr(engine_api, "connect", FakeEngine)
    monkeypatch.setattr(meanwhile, "Engine", FakeProcess)


class Watched:
    """A watch, and what it has interrupted with."""

    def __init__(self, **config: Any) -> None:
        host = {"Memory": 0, "RestartPolicy": ALWAYS}
        self.spec = replace(SPEC, config=config, host_config=host)
        self.told: list[LivemigError] = []
        self.watch = Meanwhile(self.spec, 0, self.told.append)
        self.say = FakeEvents.last.say

    def hear(self, action: str, **attributes: str) -> type[LivemigError] | None:
        """Return what an event is answered with."""
        before = len(self.told)
        self.say(action, attributes)
        return type(self.told[-1]) if len(self.told) > before else None


@pytest.mark.parametrize(
    ("action", "attributes", "error"),
    [
        ("kill", {"signal": "9"}, NotRunning),
        ("kill", {"signal": "15"}, NotRunning),
        ("kill", {"signal": "10"}, None),
        ("pause", {}, Paused),
        ("die", {"exitCode": "3"}, ProcessGone),
        ("oom", {}, ProcessGone),
        ("rename", {"name": "other"}, NotCarried),
        ("connect", {}, NotCarried),
        ("disconnect", {}, NotCarried),
        ("exec_start", {}, None),
        ("extract-to-dir", {}, None),
        ("start", {}, None),
        ("attach", {}, None),
    ],
)
def test_before_the_freeze(
    action: str, attributes: dict[str, str], error: type[LivemigError] | None
) -> None:
    assert Watched().hear(action, **attributes) is error


@pytest.mark.parametrize(
    ("action", "attributes", "error"),
    [
        ("exec_start", {}, NotCarried),
        ("extract-to-dir", {}, StateMismatch),
        ("kill", {"signal": "10"}, StateMismatch),
    ],
)
def test_when_it_is_frozen(
    action: str, attributes: dict[str, str], error: type[LivemigError]
) -> None:
    watched = Watched()
    watched.watch.freezing()
    assert watched.hear(action, **attributes) is error


@pytest.mark.parametrize(
    ("test", "command"),
    [
        (["CMD", "wget", "-q", "localhost"], "wget -q localhost"),
        (["CMD-SHELL", "wget -q localhost || exit 1"], "/bin/sh -c wget -q localhost || exit 1"),
    ],
)
def test_a_health_check_that_fires_disturbs_nothing(test: list[str], command: str) -> None:
    watched = Watched(Healthcheck={"Test": test, "Timeout": 5_000_000_000})
    watched.watch.freezing()
    assert watched.hear("exec_start", **{"": command}) is None
    assert watched.hear("exec_start", **{"": "bash"}) is NotCarried
    assert health.patience(watched.spec) == 5


@pytest.mark.parametrize("check", [None, {"Test": ["NONE"]}, {"Test": []}])
def test_without_a_health_check_nobody_is_waited_for(check: dict[str, Any] | None) -> None:
    spec = replace(SPEC, config={"Healthcheck": check})
    assert (health.command(spec), health.patience(spec)) == ("", 0)
    assert health.patience(replace(SPEC, config={"Healthcheck": {"Test": ["CMD", "x"]}})) == 30


def test_nothing_comes_into_a_sealed_container() -> None:
    watched = Watched()
    watched.watch.freezing()
    watched.watch.sealed()
    assert watched.hear("exec_start") is None


def test_the_stop_signal_of_the_container() -> None:
    assert Watched(StopSignal="SIGUSR1").hear("kill", signal="10") is NotRunning
    assert Watched(StopSignal="10").hear("kill", signal="15") is None
    assert Watched(StopSignal="SIGRTMIN+3").hear("kill", signal="37") is NotRunning


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("", 15),
        ("quit", 3),
        ("SIGRTMIN", 34),
        ("rtmin+3", 37),
        ("SIGRTMIN+15", 49),
        ("SIGRTMAX-14", 50),
        ("RTMAX", 64),
        ("RTMIN+16", 15),
        ("nonsense", 15),
    ],
)
def test_a_stop_signal_has_the_number_that_docker_gives_it(word: str, number: int) -> None:
    assert stop_signal(replace(SPEC, config={"StopSignal": word})) == number


@pytest.mark.parametrize(
    ("found", "frozen", "error"),
    [
        ({"Memory": 0, "RestartPolicy": ALWAYS}, False, None),
        ({"Memory": 0, "RestartPolicy": NO}, True, None),  # the move's own doing
        ({"Memory": 0, "RestartPolicy": NO}, False, NotCarried),
        ({"Memory": 1, "RestartPolicy": ALWAYS}, False, NotCarried),
        ({"Memory": 1, "RestartPolicy": NO}, True, NotCarried),
    ],
)
def test_updates(
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any],
    frozen: bool,
    error: type[LivemigError] | None,
) -> None:
    monkeypatch.setattr(FakeEngine, "host_config", found)
    for said in ("update", CAME_BACK):
        watched = Watched()
        if frozen:
            watched.watch.freezing()
        assert watched.hear(said) is error


def test_only_the_first_breaks_it_off() -> None:
    watched = Watched()
    assert watched.hear("kill", signal="15") is NotRunning
    assert watched.hear("die", exitCode="0") is None
    with pytest.raises(NotRunning):
        watched.watch.freezing()


def test_what_came_just_before_the_commit_breaks_it_off() -> None:
    """Nobody may have been interrupted by then."""
    watched = Watched()
    watched.watch.freezing()
    watched.hear("pause")
    with pytest.raises(Paused):
        watched.watch.committed()


def test_after_the_commit_a_stop_is_passed_on() -> None:
    watched = Watched()
    watched.watch.freezing()
    watched.watch.committed()
    assert watched.hear("kill", signal="15") is None
    assert watched.watch.last_word() == Finish(stop=True)
    with pytest.raises(NotRunning, match="moved to there, and stopped there"):
        watched.watch.tell_stopped("there")
    with pytest.raises(NotRunning, match="moved to there, and was to be stopped there: it is away"):
        watched.watch.tell_stopped("there", ("it is away",))


@pytest.mark.parametrize(
    ("action", "attributes", "what"),
    [
        ("pause", {}, "was paused by Docker"),
        ("kill", {"signal": "10"}, "got signal 10 by Docker"),
        ("update", {}, "was changed by `docker update` (Memory)"),
        ("extract-to-dir", {}, "got files by `docker cp`"),
        ("rename", {"name": "other"}, ""),
    ],
)
def test_after_the_commit_what_only_the_source_got_is_told(
    monkeypatch: pytest.MonkeyPatch, action: str, attributes: dict[str, str], what: str
) -> None:
    monkeypatch.setattr(FakeEngine, "host_config", {"Memory": 1, "RestartPolicy": NO})
    watched = Watched()
    watched.watch.freezing()
    watched.watch.committed()
    assert watched.hear(action, **attributes) is None
    late = f"the copy on the source {what} when the container had left already"
    assert watched.watch.notes == [late] * bool(what)
    assert watched.watch.last_word() == Finish()


def test_who_has_paused_it_goes_on_with_that_until_it_is_over() -> None:
    """A move that is undone thaws what nobody else holds."""
    watched = Watched()
    assert not watched.watch.paused
    watched.hear("pause")
    assert watched.watch.paused
    watched.hear("unpause")
    assert not watched.watch.paused


def test_after_the_commit_a_restart_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what Docker has started on the source is killed."""
    killed: list[str] = []
    monkeypatch.setattr(lifecycle, "kill", lambda _, ident: killed.append(ident))
    watched = Watched()
    assert watched.hear("start") is None
    assert killed == []
    watched.watch.committed()
    watched.hear("kill", signal="15")
    watched.hear("start")
    assert killed == [watched.spec.id]
    assert watched.watch.last_word() == Finish(restart=True)
    watched.watch.tell_stopped("there")
    assert "restarted on there" in watched.watch.notes[0]


@pytest.mark.parametrize("committed", [False, True])
def test_an_engine_that_ends_is_no_operator(
    monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """It stops its containers, and says so as of one that somebody stops."""
    watched = Watched()
    if committed:
        watched.watch.committed()

    monkeypatch.setattr(FakeProcess, "ending", True)
    assert watched.hear("kill", signal="15") is None
    assert not watched.watch.told_to_end
    assert watched.watch.last_word() == Finish()


def test_the_engine_that_comes_after_one_that_ended_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(StopSignal="SIGINT")
    monkeypatch.setattr(FakeEngine, "host_config", watched.spec.host_config)
    monkeypatch.setattr(FakeProcess, "ending", True)
    assert watched.hear("kill", signal="2") is None
    assert watched.hear(CAME_BACK) is None
    assert watched.hear("kill", signal="2") is NotRunning


def test_who_was_told_to_end_may_be_started_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "kill", lambda *_: None)
    watched = Watched()
    watched.watch.committed()
    watched.watch.await_restart()  # nobody has told it anything
    watched.hear("kill", signal="15")
    later = threading.Timer(0.1, watched.say, ("start", {}))
    later.start()
    watched.watch.await_restart()
    word = watched.watch.last_word()
    later.join()
    assert word == Finish(restart=True)


def test_one_that_was_removed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meanwhile, "_RESTART", 3600.0)
    watched = Watched()
    watched.watch.committed()
    watched.hear("kill", signal="9")
    watched.hear("destroy")
    watched.watch.await_restart()
    assert watched.watch.last_word() == Finish(stop=True)


def test_one_that_came_back_can_be_broken_off_again() -> None:
    watched = Watched()
    watched.watch.committed()
    watched.watch.returned()
    assert watched.hear("kill", signal="9") is NotRunning


def test_why_a_process_is_gone_is_waited_for() -> None:
    watched = Watched()
    later = threading.Timer(0.05, watched.say, ("die", {"exitCode": "7"}))
    later.start()
    reason = watched.watch.explain(ProcessGone("gone"))
    later.join()
    assert "exit code 7" in str(reason)


def test_other_reasons_stay_what_they_are() -> None:
    watch = Watched().watch
    for reason in (Cancelled("enough"), NotCarried("this"), KeyError("that")):
        assert watch.explain(reason) is reason


def test_the_held_copy_is_left_alone_once_it_is_complete() -> None:
    told: list[LivemigError] = []
    watch = heldwatch.HeldWatch(SPEC.id, SPEC, told.append)
    FakeEvents.last.say("pause", {})
    FakeEvents.last.say("kill", {"signal": "10"})
    assert told == []
    FakeEvents.last.say("kill", {"signal": "15"})
    FakeEvents.last.say("die", {})
    assert [type(each) for each in told] == [TargetError]
    other: list[LivemigError] = []
    watch = heldwatch.HeldWatch(SPEC.id, SPEC, other.append)
    watch.close()
    FakeEvents.last.say("kill", {"signal": "9"})
    assert other == []
