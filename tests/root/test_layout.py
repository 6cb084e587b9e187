"""What lays memory out is what was chosen; LIVEMIG_LAYOUT has all other tests here choose it."""

from __future__ import annotations

from pathlib import Path

import pytest

from livemig.errors import KernelLacks
from livemig.model import DEVICE, LAYOUTS, STUB, LayoutChoice
from livemig.system.device import PATH
from tests.root.apps import App
from tests.root.loopback import Mover

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@pytest.mark.parametrize("layout", ["auto", *LAYOUTS])
def test_what_was_chosen_lays_memory_out(carried: App, move: Mover, layout: LayoutChoice) -> None:
    """Where the machine has no device the choice of it is told, and auto takes the stub."""
    there = Path(PATH).exists()
    moving = move(carried, layout=layout)
    if layout == DEVICE and not there:
        with pytest.raises(KernelLacks, match=f"{PATH}.*--layout device"):
            moving.round()
        moving.give_up()
    else:
        carried = moving.run()
        usual = DEVICE if there else STUB
        assert moving.incoming.backend == (usual if layout == "auto" else layout)
    assert carried.ask("check") == "ok", carried.errors()
