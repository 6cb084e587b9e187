"""Measure moves of the recorder: `make bench`. BENCH_JSON=FILE writes the figures as JSON too.

BENCH_MOVES and BENCH_SIZES make a short run of it. The exit code tells whether every bar holds.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path

from tests.bench.moving import SIZES, Series, measure
from tests.bench.report import as_json, as_table, bars
from tests.docker.moves import Pair, set_up
from tests.hosts import Host, load_images, two_hosts

_RANDOM = "/dev/shm/livemig-bench"


def ssh_rate(source: Host, target: Host, mebibytes: int) -> float:
    """Return how many bytes a second `cat | ssh cat` moves, with the cipher that moves use."""
    source.run(["sh", "-c", f"head -c {mebibytes}M /dev/urandom > {_RANDOM}"], timeout=120)
    ssh = "ssh -o Ciphers=^aes128-gcm@openssh.com"
    try:
        rates = []
        for _ in range(3):
            started = time.monotonic()
            command = f"cat {_RANDOM} | {ssh} {target.name} 'cat > /dev/null'"
            source.run(["sh", "-c", command], timeout=300)
            rates.append((mebibytes << 20) / (time.monotonic() - started))
        return sorted(rates)[1]
    finally:
        source.run(["rm", "-f", _RANDOM])


def run(pair: Pair, sizes: list[int], moves: int) -> int:
    """Measure everything, print it, and return the exit code."""
    print(f"ssh: {(rate := ssh_rate(*pair, sizes[-1])) / (1 << 20):.0f} MiB/s", file=sys.stderr)
    found: list[Series] = []
    for choice in ("fixed", "random"):
        for size in sizes:
            found += measure(pair, size, choice, moves)
    print(f"{platform.node()}, Linux {platform.release()}, {os.cpu_count()} CPUs; medians\n")
    print("\n".join(as_table(found)), end="\n\n")
    checks = bars(found, rate)
    print("\n".join(map(str, checks)))
    if path := os.environ.get("BENCH_JSON"):
        Path(path).write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")
    return 0 if all(check.holds for check in checks) else 1


def main() -> int:
    """Start two hosts and run; the hosts end with it."""
    sizes = [int(word) for word in os.environ.get("BENCH_SIZES", "").split()] or list(SIZES)
    if len(set(sizes)) < 2:
        sys.exit(f"BENCH_SIZES={sizes[0]}: name two sizes at least, in MiB; they are compared")
    moves = int(os.environ.get("BENCH_MOVES", "5"))
    with two_hosts() as pair:
        for host in pair:
            load_images(host)
        set_up(pair)
        return run(pair, sizes, moves)


if __name__ == "__main__":
    sys.exit(main())
