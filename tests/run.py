"""Every test, in groups: `python -m tests.run [ARGUMENTS OF PYTEST]`.

Guests stand back behind all others, so their tests go beside those of this machine's own processes.
Those of two hosts come after: they want to see that nothing is left, with limits that are short for
a busy machine. Most of their time they wait, so they go in two halves, each with hosts of its own.
The exit code is the first that is not 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.config import state_root

DOCKER = Path(__file__).parent / "docker"
FIRST_HALF = ("cancel", "lost_link", "meanwhile", "recover", "steps", "sweep")
"""The tests of hosts that take as long as all others."""
NO_TESTS = 5

_writing = threading.Lock()


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
            for line in pytest.stdout or ():
                with _writing:
                    sys.stdout.buffer.write(line)
                    sys.stdout.flush()
            code = pytest.wait()
        return 0 if code == NO_TESTS else code


def stages() -> tuple[tuple[Group, ...], ...]:
    """Return all groups: those of a stage go side by side, the stages one after the other."""
    files = sorted(DOCKER.glob("test_*.py"))
    names = {half: tuple(str(f) for f in files if _is_first(f) is half) for half in (True, False)}
    return (
        (Group(("tests/unit", "tests/root")), Group(("tests/vm",))),
        (Group(names[True]), Group(names[False], "-2")),
    )


def _is_first(file: Path) -> bool:
    return file.stem.removeprefix("test_") in FIRST_HALF


def main() -> int:
    """Run all groups."""
    arguments, codes = sys.argv[1:], []
    for groups in stages():
        with ThreadPoolExecutor(len(groups)) as workers:
            started = [workers.submit(group.run, arguments) for group in groups]
            codes += [each.result() for each in started]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
