"""The program that stops at steps: it goes on, whichever of both sides comes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.docker import stopper
from tests.docker.killers import Stop
from tests.hosts import Host

POINT = "source connect"


class Here:
    """A host whose files are this machine's."""

    def path(self, inside: Path) -> Path:
        return inside


@pytest.fixture
def stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stop]:
    monkeypatch.setattr(stopper, "DIRECTORY", tmp_path / "stops")
    host = cast("Host", Here())
    with Stop((host, host), POINT) as one:
        yield one


def test_it_stops_until_it_is_released(stop: Stop) -> None:
    program = threading.Thread(target=stopper.stop_at, args=[POINT], daemon=True)
    stopper.stop_at("source prepare")
    program.start()
    stop.await_stop()
    program.join(0.2)
    assert program.is_alive()
    stop.release()
    program.join(10)
    assert not program.is_alive()


def test_it_goes_on_where_it_was_released_before_it_listens(stop: Stop) -> None:
    program = threading.Thread(target=stopper.stop_at, args=[POINT], daemon=True)
    stop.release()
    program.start()
    program.join(10)
    assert not program.is_alive()
