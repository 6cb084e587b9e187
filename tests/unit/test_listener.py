"""What is heard of moves is told once, and what was lost is told, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import pytest

from livemig.system.listener import Listener


class Ring:
    """A ring in which a move is lost just when somebody has looked whether one was."""

    turn = heard = taken = 0

    def __init__(self) -> None:
        self._lost = 0
        self.looked = 0

    @property
    def lost(self) -> int:
        """Return what the listener's thread has counted, which it goes on to do."""
        found, self.looked = self._lost, self.looked + 1
        self._lost += self.looked == 1
        return found

    @lost.setter
    def lost(self, value: int) -> None:
        self._lost = value


@pytest.fixture
def listener() -> Iterator[Listener]:
    reading, writing = os.pipe()
    made = Listener(reading)
    yield made
    made.close()
    os.close(reading)
    os.close(writing)


def test_no_loss_is_forgotten(listener: Listener) -> None:
    """A page that was moved without our knowing would stay another on the target."""
    own, ring = listener._ring, Ring()
    listener._ring = cast("Any", ring)
    try:
        assert [listener.take() for _ in range(3)] == [([], False), ([], True), ([], False)]
    finally:
        listener._ring = own
