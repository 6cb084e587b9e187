"""What an engine tells of a container, whatever its clock does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
import requests

from docker_livemig import engine_api
from docker_livemig.events import Events

SINCE = 1_700_000_000_000_000_000
EARLIER = SINCE - 3600 * 10**9


class Engine:
    """Tells of one event each time it is asked, then ends; refuses to answer the second time."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def events(self, **words: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(words["since"])
        if len(self.asked) == 2:
            raise requests.ConnectionError("no such file")
        actor = {"ID": "one", "Attributes": {"signal": "15"}}
        # Its clock was set back.
        return iter([{"Type": "container", "Action": "kill", "Actor": actor, "timeNano": EARLIER}])

    def close(self) -> None:
        """Nothing is open."""


def test_an_engine_that_comes_back_is_asked_for_what_it_told_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It knows what came before it was asked: its clock may say otherwise of the rest."""
    engine = Engine()
    monkeypatch.setattr(engine_api, "connect", lambda: engine)
    heard: SimpleQueue[str] = SimpleQueue()
    over = threading.Event()
    followed = Events("one", SINCE, lambda action, _: heard.put(action), over.set)
    assert [heard.get(timeout=5), heard.get(timeout=5)] == ["kill", "kill"]
    assert not over.is_set()
    followed.close()
    assert over.wait(5)
    assert engine.asked[:3] == ["1700000000.000000000", *2 * ["1699996400.000000001"]]
