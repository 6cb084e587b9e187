"""Every test, in groups: `python -m tests.run [ARGUMENTS OF PYTEST]`.

Two lanes, side by side, each with a group after the other: both take about as long. Guests stand
back behind all others, so their tests go beside those of this machine's own processes. Those of two
hosts wait most of their time: they go in two halves, each with hosts of its own. The exit code is
the first that is not 0, but a group may be without a test that was asked for, where not all are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.config import state_root

DOCKER = Path(__file__).parent / "docker"
FIRST_HALF = ("lost_link", "meanwhile", "move", "recover", "steps", "sweep")
"""The tests of hosts that come after those of this machine's own processes."""
NO_TESTS = 5
ENDED = 128 + signal.SIGTERM

_writing = threading.Lock()
_running: set[subprocess.Popen[bytes]] = set()
_ended = threading.Event()


@dataclass(frozen=True)
class Group:
    """What one run of pytest is given; ``hosts`` tells its two hosts from those of others."""

    places: tuple[str, ...]
    hosts: str = ""

    def run(self, arguments: list[str]) -> int:
        """Run it, pass its lines on, and return pytest's exit code."""
        argv = [sys.executable, "-u", "-m", "pytest", *arguments, *self.places]
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LIVEMIG_HOSTS_DIR": f"{state_root()}{self.hosts}"},
        ) as pytest:
            _running.add(pytest)
            for line in pytest.stdout or ():
                with _writing:
                    sys.stdout.buffer.write(line)
                    sys.stdout.flush()
            _running.discard(pytest)
            return pytest.wait()


def lanes() -> tuple[tuple[Group, ...], ...]:
    """Return all groups: the lanes go side by side, the groups of each one after the other."""
    files = sorted(DOCKER.glob("test_*.py"))
    names = {half: tuple(str(f) for f in files if _is_first(f) is half) for half in (True, False)}
    return (
        (Group(("tests/unit", "tests/root")), Group(names[True])),
        (Group(("tests/vm",)), Group(names[False], "-2")),
    )


def _is_first(file: Path) -> bool:
    return file.stem.removeprefix("test_") in FIRST_HALF


def end(*_: object) -> None:
    """Have each group end what it has started, and begin no other; what SIGTERM does."""
    _ended.set()
    for pytest in tuple(_running):
        pytest.terminate()


def main() -> int:
    """Run all groups."""
    arguments = sys.argv[1:]

    def drive(lane: tuple[Group, ...]) -> list[int]:
        return [ENDED if _ended.is_set() else group.run(arguments) for group in lane]

    with ThreadPoolExecutor() as workers:
        codes = [code for lane in workers.map(drive, lanes()) for code in lane]
    return next((code for code in codes if code not in (0, NO_TESTS)), min(codes))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main())
