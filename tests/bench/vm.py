"""Measure between two machines, against CRIU: `make bench-vm`. BENCH_MOVES makes a short run of it.

Each figure is of one run; the gap is what the recorder saw by its own clock. The two clocks differ
by what the machines differ: so a trip there and one back are counted as one, by their mean.
"""

from __future__ import annotations

import json
import os
import statistics
import sys

from livemig.model import DEVICE, LAYOUTS, STUB
from tests.bench import criu, moving
from tests.bench.layouts import COPYING, MAPPING, MOVING
from tests.bench.report import Bar
from tests.vm import Guest, clone
from tests.vm.debian import CLONE
from tests.vm.kernels import Kernel
from tests.vm.machines import Pair, random_addresses, running_pair

KERNEL = "6.1"
SIZES = (64, 256)
LIMIT = 1200.0


def gaps(pair: Pair, mebibytes: int, rounds: int) -> dict[str, float]:
    """Return the medians of the gaps that the recorder saw, in ms, of trips there and back."""
    found: dict[str, list[float]] = {"livemig": [], "criu": []}
    ways = (pair, pair[::-1])
    with moving.recorder(pair[0], pair, mebibytes, "fixed"), criu.recorder(pair, mebibytes):
        for _ in range(rounds):
            for name, trip in (("livemig", _our_trip), ("criu", criu.trip)):
                both = [trip(*way) for way in ways]
                found[name].append(statistics.mean(both))
                _tell(f"{mebibytes} MiB {name}: " + ", ".join(f"{gap:.0f} ms" for gap in both))
    return {name: statistics.median(values) for name, values in found.items()}


def _our_trip(source: Guest, target: Guest) -> float:
    return moving.trip(source, target, "live", LIMIT).gap_ms


def layouts(pair: Pair) -> dict[str, float]:
    """Return what tests.bench.layouts finds in the first machine."""
    guest = pair[0]
    clone(guest)
    guest.run(f"make -s -C {CLONE} stub", timeout=LIMIT)
    script = f"cd {CLONE} && .venv/bin/python -m tests.bench.layouts"
    found: dict[str, float] = json.loads(guest.run(script, timeout=LIMIT).stdout)
    _tell(", ".join(f"{name} {value:.1f}" for name, value in found.items()))
    return found


def tables(found: dict[int, dict[str, float]], layout: dict[str, float]) -> str:
    """Return what was measured, as Markdown."""
    lines = ["| MiB | livemig ms | CRIU ms |", "|---:|---:|---:|"]
    lines += [
        f"| {size} | {values['livemig']:.0f} | {values['criu']:.0f} |"
        for size, values in found.items()
    ]
    lines += ["", "| | device | stub |", "|---|---:|---:|"]
    for what, name in (("one of 5,000 mappings, µs", MAPPING), ("256 MiB moved, ms", MOVING)):
        figures = " | ".join(f"{layout[f'{choice} {name}']:.1f}" for choice in LAYOUTS)
        lines.append(f"| {what} | {figures} |")
    return "\n".join([*lines, "", f"256 MiB copied: {layout[COPYING]:.0f} ms"])


def bars(found: dict[int, dict[str, float]], layout: dict[str, float]) -> list[Bar]:
    """Return what is promised of it."""
    mapping = layout[f"{DEVICE} {MAPPING}"] / layout[f"{STUB} {MAPPING}"]
    return [
        *(
            Bar(f"gap at {size} MiB to CRIU's", values["livemig"] / values["criu"], 0.2)
            for size, values in found.items()
        ),
        Bar("a mapping by the device to one by the stub", mapping, 2),
        Bar(
            "moving 256 MiB by the device to copying it",
            layout[f"{DEVICE} {MOVING}"] / layout[COPYING],
            0.2,
        ),
    ]


def main() -> int:
    """Measure everything, print it, and return the exit code."""
    rounds = int(os.environ.get("BENCH_MOVES", "3"))
    kernel = Kernel.named(os.environ.get("LIVEMIG_KERNELS", KERNEL))
    with running_pair((kernel, kernel)) as pair, random_addresses(*pair):
        version, _ = (criu.install(guest) for guest in pair)
        layout = layouts(pair)
        found = {size: gaps(pair, size, rounds) for size in SIZES}
        release = pair[0].run("uname -r").stdout.strip()
    print(f"two guests (QEMU's emulator), Linux {release}, CRIU {version}; medians\n")
    print(tables(found, layout), "\n")
    checks = bars(found, layout)
    print("\n".join(map(str, checks)))
    return 0 if all(check.holds for check in checks) else 1


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
