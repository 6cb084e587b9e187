"""What is done to a container that ends, is removed or started at that moment: races, so fakes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
import urllib3
from docker.errors import APIError

from docker_livemig import lifecycle, restarts
from docker_livemig.lifecycle import (
    pass_on,
    remove_ended,
    remove_source,
    restore_policy,
    set_policy_no,
    unpause,
)
from livemig.errors import InternalError, LivemigError, NoDocker, ProcessGone, TransferError
from livemig.freezer import Freezer
from tests import pace
from tests.unit.test_containers import SPEC, answer


class Engine:
    """An engine that fails as often as it is told to at what it is asked about one container.

    ``failures``: for each thing that is asked of it, what is raised, one after the other. ``after``
    is called with each failure: what becomes of the container meanwhile.
    """

    def __init__(self, status: str, pid: int, **failures: list[Exception]) -> None:
        self.state = {"Status": status, "Pid": pid}
        self.config: dict[str, Any] = {}
        self.after: Callable[[], object] = lambda: None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._failures = failures

    def inspect_container(self, _: str) -> dict[str, Any]:
        if self.state["Status"] == "gone":
            raise answer("No such container", 404)
        return {"State": self.state, "Config": self.config, "Name": "/recorder"}

    def containers(self, **_: Any) -> list[dict[str, str]]:
        return [{"Id": SPEC.id}]

    def times(self, what: str) -> int:
        return [name for name, _ in self.asked].count(what)

    def __getattr__(self, what: str) -> Callable[..., None]:
        def ask(_: str, **words: Any) -> None:
            self.asked.append((what, words))
            if left := self._failures.get(what):
                failure = left.pop(0)
                self.after()
                raise failure
            if what == "unpause":
                self.state.update(Status="running")

        return ask


REFUSED = APIError("it cannot be updated")
TIMED_OUT = requests.ConnectionError(
    urllib3.exceptions.ReadTimeoutError(None, "/wait", "Read timed out.")  # type: ignore[arg-type]
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_LIMIT", 0.5)


@pytest.mark.parametrize("what", ["zombie", "reaped"])
def test_the_policy_of_one_that_is_just_ending_comes_back(what: str) -> None:
    """Docker does not take it until it has noted the end: a race, so this engine is none."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if what == "reaped":
            process.wait()
        engine = Engine("running", process.pid, update_container=[REFUSED, REFUSED])
        restore_policy(engine, SPEC.id, SPEC)
    assert engine.asked == [("update_container", {"restart_policy": SPEC.restart_policy})] * 3


@pytest.mark.parametrize("pid", [0, os.getpid()], ids=["exited", "lives"])
def test_a_policy_that_the_engine_does_not_take_is_an_error_at_once(pid: int) -> None:
    engine = Engine("running", pid, update_container=[REFUSED])
    with pytest.raises(TransferError, match=r"restart policy of .*: it cannot be updated"):
        restore_policy(engine, SPEC.id, SPEC)
    assert engine.times("update_container") == 1


@pytest.mark.parametrize(
    ("pid", "error"), [(2**22, ProcessGone), (os.getpid(), TransferError)], ids=["ended", "lives"]
)
def test_one_that_has_ended_before_its_freeze_is_said_to_have(
    pid: int, error: type[LivemigError]
) -> None:
    """So it is asked what Docker tells of the end."""
    with pytest.raises(error) as caught:
        set_policy_no(Engine("running", pid, update_container=[REFUSED]), replace(SPEC, pid=pid))
    assert type(caught.value) is error


@pytest.mark.parametrize("then", ["exited", "running", "gone"])
def test_what_ends_or_is_unpaused_before_docker_is_told_that_it_runs_is_no_error(then: str) -> None:
    engine = Engine("paused", os.getpid(), unpause=[answer("it is not paused", 409)])
    engine.after = lambda: engine.state.update(Status=then)
    unpause(engine, SPEC.id, "recorder")
    assert engine.times("unpause") == 1


def test_one_that_docker_does_not_unpause_is_asked_for_again_and_then_told() -> None:
    engine = Engine("paused", os.getpid(), unpause=[answer("not now")] * 2)
    unpause(engine, SPEC.id, "recorder")
    assert engine.times("unpause") == 3
    with pytest.raises(TransferError, match="unpausing container recorder: never"):
        unpause(Engine("paused", os.getpid(), unpause=[answer("never")] * 99), SPEC.id, "recorder")


@pytest.mark.parametrize("then", ["removing", "dead", "gone"])
def test_one_that_is_removed_meanwhile_is_not_started(then: str) -> None:
    engine = Engine("exited", 0, start=[answer("it is marked for removal", 409)])
    engine.after = lambda: engine.state.update(Status=then)
    lifecycle.start(engine, SPEC.id)
    assert engine.times("start") == 1


def test_one_that_cannot_be_started_is_told() -> None:
    with pytest.raises(APIError, match="no such device"):
        lifecycle.start(Engine("exited", 0, start=[answer("no such device")]), SPEC.id)


def test_one_that_is_gone_when_it_is_to_be_started_again_is_no_error() -> None:
    engine = Engine("gone", 0)
    restarts.start_again(engine, SPEC.id, SPEC, 1.0)
    assert engine.times("start") == 0


@pytest.mark.parametrize(
    ("restart", "own", "limit"),
    [(True, 60, 60), (False, 0, 0), (True, None, 10), (False, None, 10)],
)
def test_what_is_passed_on_leaves_the_container_the_time_that_it_has(
    restart: bool, own: int | None, limit: int
) -> None:
    engine = Engine("running", 1)
    engine.config = {} if own is None else {"StopTimeout": own}
    pass_on(engine, SPEC.id, stop=not restart, restart=restart)
    assert engine.asked == [("restart" if restart else "stop", {"timeout": limit})]


def test_nothing_is_passed_on_to_one_that_is_gone_or_was_told_nothing() -> None:
    engine = Engine("gone", 0)
    pass_on(engine, SPEC.id, stop=True, restart=False)
    pass_on(engine, SPEC.id, stop=False, restart=False)
    assert engine.asked == []


def test_an_end_that_docker_does_not_notice_is_told_with_what_to_do() -> None:
    with pytest.raises(InternalError, match="did not notice in 30 s that recorder") as caught:
        remove_source(Engine("running", 1, wait=[TIMED_OUT]), SPEC)
    assert "docker rm -f" in caught.value.hint
    with pytest.raises(NoDocker):
        remove_source(Engine("running", 1, wait=[requests.ConnectionError("refused")]), SPEC)


def test_one_that_ends_between_two_looks_of_the_engine_is_removed() -> None:
    busy = answer("Could not kill running container, cannot remove: it is not running", 500)
    with subprocess.Popen(["sleep", "60"]) as process:
        engine = Engine("running", process.pid, remove_container=[busy])

        def end() -> None:
            process.kill()
            process.wait()

        engine.after = end
        remove_ended(engine, SPEC.id, volumes=True)
    assert engine.times("remove_container") == 2


@pytest.mark.parametrize("pid", [0, os.getpid()], ids=["exited", "lives"])
def test_one_that_cannot_be_removed_is_told_at_once(pid: int) -> None:
    engine = Engine("running", pid, remove_container=[answer("a disk is broken")])
    with pytest.raises(TransferError, match="a disk is broken"):
        remove_ended(engine, SPEC.id, volumes=True)
    assert engine.times("remove_container") == 1


def test_one_that_somebody_else_removes_is_waited_for() -> None:
    engine = Engine("removing", 0, remove_container=[answer("in progress", 409)])
    engine.after = lambda: engine._failures.update(wait=[answer("No such container", 404)])
    remove_ended(engine, SPEC.id, volumes=False)
    assert [name for name, _ in engine.asked] == ["remove_container", "wait"]


def test_what_ends_as_it_is_killed_is_thawed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    thawed = []
    freezer = SimpleNamespace(
        directory=Path("/sys/fs/cgroup", SPEC.id), thaw=lambda: thawed.append(1)
    )

    def signal_to(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(Freezer, "of_process", lambda _: freezer)
    monkeypatch.setattr("signal.pidfd_send_signal", signal_to)
    lifecycle.kill(cast("Any", Engine("running", os.getpid())), SPEC.id)
    assert thawed


@pytest.mark.parametrize("ours", [True, False])
def test_what_is_killed_is_thawed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """Killed, it may be reaped before anything else is asked: no way leads to its cgroup then."""
    with subprocess.Popen(["sleep", "60"]) as process:

        def thaw() -> None:
            process.wait(pace.limit(10))  # it got the signal first

        def freezer_of(pid: int) -> SimpleNamespace:
            assert pid == process.pid
            assert process.poll() is None
            directory = Path("/sys/fs/cgroup/docker", SPEC.id if ours else "another")
            return SimpleNamespace(directory=directory, thaw=thaw)

        monkeypatch.setattr(Freezer, "of_process", freezer_of)
        lifecycle.kill(cast("Any", Engine("running", process.pid)), SPEC.id)
        assert process.returncode == (-signal.SIGKILL if ours else None)
        process.kill()
    lifecycle.kill(cast("Any", Engine("exited", process.pid)), SPEC.id)
