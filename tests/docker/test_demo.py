"""The demonstration ends well, and says in one line what is wrong where something is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pace
from tests.hosts.config import REPO

pytestmark = pytest.mark.docker


def _demo(state: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "tests.demo"],
        cwd=REPO,
        env={**os.environ, "LIVEMIG_HOSTS_DIR": str(state)},
        check=False,
        capture_output=True,
        text=True,
        timeout=pace.limit(200),
    )


@pytest.mark.timeout(240)
def test_every_number_arrives_and_nothing_stays(tmp_path: Path) -> None:
    state = tmp_path / "demo"
    done = _demo(state)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none lost, none twice, none out of order" in done.stdout
    assert re.search(r"Mode: +live \(", done.stdout), done.stdout
    assert int(re.findall(r"(\d+) of them while it moved", done.stdout)[0]) > 0
    assert [entry.name for entry in state.iterdir()] == ["lock"]


def test_one_line_says_that_it_needs_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = _demo(tmp_path, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ")
    assert done.stderr.count("\n") == 1
