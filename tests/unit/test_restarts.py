"""Which containers are started again that ended while Docker held no restart policy for them.

They end within hundredths of a second, between their thaw and the return of their policy: a race,
so this engine is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from docker_livemig import dockerd, restarts
from tests.unit.test_containers import SPEC

SINCE = 1234.5


class Engine:
    """An engine with a container that has ended, and what it has heard of it."""

    def __init__(self, code: int, signals: tuple[str, ...], status: str) -> None:
        self._code, self._signals, self._status = code, signals, status
        self.started: list[str] = []

    def containers(self, **words: Any) -> list[dict[str, str]]:
        assert words == {"all": True, "filters": {"id": SPEC.id, "status": "exited"}}
        return [{"Id": SPEC.id}] if self._status == "exited" else []

    def inspect_container(self, _: str) -> dict[str, Any]:
        return {"State": {"ExitCode": self._code}}

    def events(self, **words: Any) -> Iterator[dict[str, Any]]:
        assert words["filters"] == {"container": SPEC.id, "event": "kill"}
        assert float(words["since"]) == SINCE < float(words["until"])
        return ({"Actor": {"Attributes": {"signal": each}}} for each in self._signals)

    def start(self, container: str) -> None:
        self.started.append(container)


@pytest.mark.parametrize(
    ("policy", "code", "signals", "status", "starts"),
    [
        ("always", 0, (), "exited", True),
        ("unless-stopped", 1, (), "exited", True),
        ("on-failure", 1, (), "exited", True),
        ("on-failure", 0, (), "exited", False),
        ("no", 1, (), "exited", False),
        ("always", 0, (), "running", False),
        ("always", 137, ("9",), "exited", False),
        ("always", 130, ("2",), "exited", False),  # its own stop signal
        ("always", 0, ("10", "15"), "exited", True),
    ],
)
def test_one_that_ended_by_itself_is_started_as_its_policy_says(
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    code: int,
    signals: tuple[str, ...],
    status: str,
    starts: bool,
) -> None:
    engine = Engine(code, signals, status)
    config = {**SPEC.config, "StopSignal": "SIGINT"}
    spec = replace(SPEC, config=config, restart_policy={"Name": policy, "MaximumRetryCount": 0})
    monkeypatch.setattr(dockerd, "started", lambda: SINCE - 1)
    restarts.start_again(engine, spec.id, spec, SINCE)
    assert engine.started == [spec.id] * starts


@pytest.mark.parametrize(
    ("policy", "code", "starts"), [("always", 137, True), ("on-failure", 0, False)]
)
def test_an_engine_that_was_restarted_is_no_operator(
    monkeypatch: pytest.MonkeyPatch, policy: str, code: int, starts: bool
) -> None:
    """It says of its containers that they were killed, as of those that somebody kills."""
    monkeypatch.setattr(dockerd, "started", lambda: SINCE + 1)
    engine = Engine(code, ("15", "9"), "exited")
    spec = replace(SPEC, restart_policy={"Name": policy, "MaximumRetryCount": 0})
    restarts.start_again(engine, spec.id, spec, SINCE)
    assert engine.started == [spec.id] * starts
