"""Every test, in groups: `python -m tests.run [ARGUMENTS OF PYTEST]`.

Guests stand back behind all others, so their tests go beside those of this machine's own processes.
Those of two hosts come after: they want to see that nothing is left, with limits that are short for
a busy machine. The exit code is the first that is not 0.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

STAGES = (
    (("tests/unit", "tests/root"), ("tests/vm",)),
    (("tests/docker",),),
)
"""One after the other; the groups of each go side by side."""
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
    arguments, codes = sys.argv[1:], []
    for groups in STAGES:
        with ThreadPoolExecutor(len(groups)) as workers:
            started = [workers.submit(run, places, arguments) for places in groups]
            codes += [each.result() for each in started]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
