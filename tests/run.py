"""Every test, in groups that run side by side: `python -m tests.run [ARGUMENTS OF PYTEST]`.

Most of the time the tests wait, for Docker or for a silence to be long enough; so what stands on
this machine's own processes and what stands on two hosts of it go at the same time, and the guests,
which want the processors for themselves, come after. The exit code is the first that is not 0.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

ABREAST = (("tests/unit", "tests/root"), ("tests/docker",))
AFTERWARDS = ("tests/vm",)
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
    with ThreadPoolExecutor(len(ABREAST)) as workers:
        started = [workers.submit(run, places, arguments) for places in ABREAST]
        codes = [each.result() for each in started]
    codes.append(run(AFTERWARDS, arguments))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
