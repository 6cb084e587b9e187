"""What an engine tells of a container, whatever its clock does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from docker_livemig import engine_api
from docker_livemig.events import Events

SINCE = 1_700_000_000_000_000_000
HOUR = 3600 * 10**9


def test_a_clock_that_is_set_back_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine knows what came before it was asked: its clock may say otherwise of the rest."""
    asked: list[Any] = []

    def events(**words: Any) -> Iterator[dict[str, Any]]:
        asked.append(words["since"])
        actor = {"ID": "one", "Attributes": {"signal": "15"}}
        yield {"Type": "container", "Action": "kill", "Actor": actor, "timeNano": SINCE - HOUR}

    api = SimpleNamespace(events=events, close=lambda: None)
    monkeypatch.setattr(engine_api, "connect", lambda: api)
    heard: list[str] = []
    over = threading.Event()
    followed = Events("one", SINCE, lambda action, _: heard.append(action), over.set)
    assert over.wait(5)
    followed.close()
    assert heard == ["kill"]
    assert asked == ["1700000000.000000000"]
