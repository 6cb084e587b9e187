"""A process that has one of everything moves into a held one, and finds all as it was."""

from __future__ import annotations

import pytest

from tests.root.apps import App
from tests.root.loopback import Mover

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_all_is_as_it_was(move: Mover, carried: App, live: bool) -> None:
    assert carried.ask("check") == "ok"
    carried.settle()
    app = move(carried, live=live).run(rounds=2 if live else 0)
    assert app.ask("check") == "ok", app.errors()
