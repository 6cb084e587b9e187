"""What laying out memory costs by each back end, on this machine: one JSON object on stdout.

Run in a machine that has the mremap device: python -m tests.bench.layouts [MOVES]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from livemig.inject import Held, lay_out_by
from livemig.layout import LayoutBackend, difference
from livemig.model import LAYOUTS, Kind, LayoutChoice, Mapping
from livemig.stub import hold_path
from livemig.system.memory import PAGE_SIZE, write_ranges
from livemig.system.procfs import PROT_READ, PROT_WRITE
from tests.root.apps import App

MAPPINGS = 5000
MOVED = 256 << 20
BASE = 0x10_0000_0000
CHUNK = 1 << 20
TIMES = 5
MAPPING, MOVING, COPYING = "mapping_us", "moving_ms", "copying_ms"
"""What is found: the first two of each back end, after its name."""


@contextmanager
def laid_out_by(choice: LayoutChoice) -> Iterator[tuple[Held, LayoutBackend]]:
    """Yield a held process with nothing in it, and what lays it out."""
    app = App([hold_path()])
    app.await_program(hold_path())
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    held = Held(app.pid)
    try:
        held.take()
        layout = lay_out_by(choice, held, root)
        try:
            yield held, layout
        finally:
            layout.close()
    finally:
        held.close()
        os.close(root)
        app.close()


def mapping_us(choice: LayoutChoice) -> float:
    """Return how long a mapping takes, in µs, of many that stay apart."""
    step = 2 * PAGE_SIZE
    both = PROT_READ | PROT_WRITE
    places = [BASE + step * number for number in range(MAPPINGS)]
    wanted = [Mapping(at, at + PAGE_SIZE, both, Kind.ANONYMOUS) for at in places]
    with laid_out_by(choice) as (_, layout):
        begun = time.perf_counter()
        layout.apply(difference((), wanted))
        return (time.perf_counter() - begun) * 1e6 / MAPPINGS


def moving_ms(choice: LayoutChoice) -> tuple[float, float]:
    """Return how long it takes, in ms, to move memory that is there, and to fill it by copying."""
    both = PROT_READ | PROT_WRITE
    wanted = [Mapping(BASE, BASE + MOVED, both, Kind.ANONYMOUS)]
    data = os.urandom(CHUNK)
    with laid_out_by(choice) as (held, layout):
        layout.apply(difference((), wanted))
        begun = time.perf_counter()
        for at in range(BASE, BASE + MOVED, CHUNK):
            write_ranges(held.pid, [(at, CHUNK)], data)
        copied = time.perf_counter()
        layout.move([(BASE, BASE + MOVED, BASE + 4 * MOVED)])
        moved = time.perf_counter()
        if held.memory.read(BASE + 5 * MOVED - CHUNK, CHUNK) != data:
            raise AssertionError(f"what the {choice} moved is not what was there")
    return (moved - copied) * 1e3, (copied - begun) * 1e3


def main() -> int:
    """Measure everything, the back ends by turns; medians."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    found: dict[str, list[float]] = {}
    for _ in range(times):
        for choice in cast("tuple[LayoutChoice, ...]", LAYOUTS):
            found.setdefault(f"{choice} {MAPPING}", []).append(mapping_us(choice))
            moved, copied = moving_ms(choice)
            found.setdefault(f"{choice} {MOVING}", []).append(moved)
            found.setdefault(COPYING, []).append(copied)
    print(json.dumps({name: statistics.median(values) for name, values in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
