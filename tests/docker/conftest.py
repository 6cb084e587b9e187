"""Two hosts that are set up, for the one container that a module's tests are about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import NothingLeft
from tests.docker.moves import Pair, ready_for


@pytest.fixture
def pair(
    hosts: Pair, recorder_image: str, nothing_left: NothingLeft, request: pytest.FixtureRequest
) -> Iterator[Pair]:
    """Yield both hosts, the image in the first; NAME of the module is the container's."""
    assert recorder_image
    nothing_left.ignore("images")
    with ready_for(hosts, request.module.NAME) as ready:
        yield ready
