"""A container that reads all clocks without pause."""

from __future__ import annotations

import pytest

from tests import clocks, pace
from tests.docker.moves import Pair, move

pytestmark = pytest.mark.docker

NAME = "clocks"
LIMIT = pace.limit(20)


@pytest.mark.timeout(300)
def test_clocks_go_on_there_and_back(pair: Pair, recorder_image: str) -> None:
    clocks.create(pair[0].run, NAME, recorder_image, clocks.program())
    found = clocks.await_calls(pair[0].run, NAME, 0, LIMIT)
    for number in range(4):
        source, target = pair[number % 2], pair[1 - number % 2]
        move(source, NAME, target, "--verify")
        found = clocks.await_calls(target.run, NAME, found, LIMIT)
