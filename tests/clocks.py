"""The program that reads all clocks without pause, as a container on any host that has Docker.

clocks.create(guest.run, "clocks", image, "/root/clocks")      # where clocks.program() was put
… move it to a host with another kernel …
clocks.await_calls(other.run, "clocks", before, limit)         # AssertionError: what was wrong
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import pace
from tests.hosts.config import REPO

Run = Callable[[Sequence[str]], subprocess.CompletedProcess[str]]


def program() -> Path:
    """Return the program, which needs no library."""
    built = REPO / "build" / "workloads" / "vdso-static"
    built.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=gnu11", "-O1", "-static", "-o", str(built)]
    command = ["cc", *flags, str(REPO / "tests" / "workloads" / "vdso.c")]
    subprocess.run(command, check=True, timeout=pace.limit(60))
    return built


def create(run: Run, name: str, image: str, place: str | Path) -> None:
    """Start a container ``name``; ``place`` is where the host has the program."""
    run(["docker", "create", "--name", name, "--entrypoint", "/bin/clocks", image, "watch"])
    run(["docker", "cp", str(place), f"{name}:/bin/clocks"])
    run(["docker", "start", name])


def calls(run: Run, name: str) -> int:
    """Return how often it has called the vDSO, 0 where it has not said so on this host yet.

    AssertionError where a clock was wrong.
    """
    said = run(["docker", "logs", name])
    words = [line.partition(" ") for line in said.stdout.splitlines()]
    assert not said.stderr, said.stderr
    for verdict, _, rest in words:
        assert verdict == "ok", f"{verdict} {rest}"
    return max((int(number) for _, _, number in words), default=0)


def await_calls(run: Run, name: str, more_than: int, limit: float) -> int:
    """Wait until it has called the vDSO more often than that, and return how often."""
    deadline = time.monotonic() + limit
    while (found := calls(run, name)) <= more_than:
        assert time.monotonic() < deadline, f"{name} is at {found}"
        time.sleep(0.1)  # it says so in Docker's log, which is read anew
    return found
