"""What an engine tells of a container, whatever its clock does meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, cast

import requests

from docker_livemig.events import CAME_BACK, Events

SINCE = 1_700_000_000_000_000_000
EARLIER = SINCE - 3600 * 10**9


class Engine:
    """Tells of one event each time it is asked, then ends; is away for a moment."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._away = True

    def ping(self) -> None:
        self._away = not self._away
        if not self._away:
            raise requests.ConnectionError("no such file")

    def events(self, **words: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(words["since"])
        actor = {"ID": "one", "Attributes": {"signal": "15"}}
        # Its clock was set back.
        return iter([{"Type": "container", "Action": "kill", "Actor": actor, "timeNano": EARLIER}])

    def close(self) -> None:
        """Nothing is open."""


def test_an_engine_that_comes_back_is_heard_from_then_on() -> None:
    """Whatever its clock says. What it says of its own start is no word of an operator."""
    engine = Engine()
    heard: SimpleQueue[str] = SimpleQueue()
    over = threading.Event()
    begun = time.time()
    followed = Events(
        cast("Any", engine), "one", SINCE, lambda action, _: heard.put(action), over.set
    )
    assert [heard.get(timeout=5) for _ in range(3)] == ["kill", CAME_BACK, "kill"]
    assert not over.is_set()
    followed.close()
    assert over.wait(5)
    assert engine.asked[0] == "1700000000.000000000"
    assert float(engine.asked[1]) >= begun
