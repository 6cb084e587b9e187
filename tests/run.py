"""Every test, in groups that run side by side: `python -m tests.run [ARGUMENTS OF PYTEST]`.

Most of the time the tests of two hosts wait, for Docker or for a silence to be long enough. So the
tests of this machine's own processes, and then those of guests, which stand back behind all others,
go beside them. The exit code is the first that is not 0.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

ABREAST = (
    (("tests/unit", "tests/root"), ("tests/vm",)),
    (("tests/docker",),),
)
"""What goes side by side, and what of it comes one after the other."""
NO_TESTS = 5

_writing = threading.Lock()


def run(places: tuple[str, ...], arguments: list[str]) -> int:
    """Run a group, pass its lines on, and return pytest's exit code."""
    argv = [sys.executable, "-u", "-m", "pytest", *arguments, *places]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as pytest:
        for line in pytest.stdout or ():
            with _writing:
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
        code = pytest.wait()
    return 0 if code == NO_TESTS else code


def main() -> int:
    """Run all groups."""
    arguments = sys.argv[1:]

    def run_all(groups: tuple[tuple[str, ...], ...]) -> list[int]:
        return [run(places, arguments) for places in groups]

    with ThreadPoolExecutor(len(ABREAST)) as workers:
        started = [workers.submit(run_all, groups) for groups in ABREAST]
        codes = [code for each in started for code in each.result()]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
