"""`make test` runs every test there is, each in one group."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import pace, run
from tests.run import FIRST_HALF, lanes

TESTS = Path(__file__).parents[1]


def test_every_file_is_in_one_group() -> None:
    groups = [group for lane in lanes() for group in lane]
    found: list[Path] = []
    for place in (TESTS.parent / place for group in groups for place in group.places):
        found += [place] if place.is_file() else place.rglob("test_*.py")
    assert sorted(found) == sorted(TESTS.rglob("test_*.py"))


def test_both_halves_have_files_and_hosts_of_their_own() -> None:
    first, second = (lane[-1] for lane in lanes())
    assert len(first.places) == len(FIRST_HALF)
    assert second.places
    assert first.hosts != second.hosts


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [([0, 0, 0, 0], 0), ([0, 5, 0, 5], 0), ([5, 1, 0, 2], 1), ([5, 5, 5, 5], 5)],
)
def test_no_test_at_all_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, codes: list[int], verdict: int
) -> None:
    left = iter(codes)
    monkeypatch.setattr(run.Group, "run", lambda *_: next(left))
    assert run.main() == verdict


LANE = """\
import signal, sys
from tests import run
signal.signal(signal.SIGTERM, run.end)
groups = tuple(run.Group((file,)) for file in sys.argv[3:])
run.lanes = lambda: (groups,)
del sys.argv[3:]
sys.exit(run.main())
"""
WAITING = """\
import pathlib, signal
import pytest
@pytest.fixture
def thing():
    (pathlib.Path(__file__).parent / "up").touch()
    yield
    (pathlib.Path(__file__).parent / "down").touch()
def test_it(thing):
    signal.pause()
"""


def test_sigterm_ends_what_the_tests_have_started(tmp_path: Path) -> None:
    files = [tmp_path / name / "test_it.py" for name in ("now", "later")]
    for file in files:
        file.parent.mkdir()
        file.write_text(WAITING)
    argv = [sys.executable, "-c", LANE, "-p", "tests.conftest", *map(str, files)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, cwd=TESTS.parent) as runner:
        deadline = time.monotonic() + pace.limit(60)
        while not (files[0].parent / "up").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)  # the two are not on speaking terms
        runner.terminate()
        assert runner.wait(pace.limit(30))
    assert (files[0].parent / "down").exists()
    assert not (files[1].parent / "up").exists()


@pytest.mark.parametrize(
    ("allowed", "code"), [(None, 0), ("", 1), ("wings", 1), ("no soul", 0), ("wings,soul", 0)]
)
@pytest.mark.parametrize("way", ["pytest.skip(reason='no soul')", "skipif(True, reason='no soul')"])
def test_what_may_not_be_skipped_fails(
    tmp_path: Path, allowed: str | None, code: int, way: str
) -> None:
    body, mark = (way, "") if way.startswith("pytest") else ("pass", f"@pytest.mark.{way}")
    file = tmp_path / "test_it.py"
    file.write_text(f"import pytest\n{mark}\ndef test_it():\n    {body}\n")
    environ = {**os.environ, "LIVEMIG_MAY_LACK": allowed or "", "LIVEMIG_SLOW": "2"}
    if allowed is None:
        del environ["LIVEMIG_MAY_LACK"]
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*argv, file], check=False, capture_output=True, timeout=60, cwd=TESTS.parent, env=environ
    )
    assert done.returncode == code
    assert (b"may_lack" in done.stdout.lower()) == bool(code)
