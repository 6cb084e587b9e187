"""What is killed while it is frozen: Docker's runtime lets the rest of it be thawed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import docker_livemig
from livemig.system.procfs import read_stat
from tests import pace
from tests.root.apps import App
from tests.root.conftest import Start

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

RUNTIME = Path(docker_livemig.__file__).with_name("livemig-runc")
ID = "0" * 64
REFUSED, PASSED_ON = 1, 7


@pytest.fixture
def held(start: Start, programs: Path, version: int, tmp_path: Path) -> App:
    """A frozen process that runc and the hold's record know as a container's first one."""
    app = start(programs / "mover", version=version)
    (tmp_path / "runc").write_text(f"#!/bin/sh\nexit {PASSED_ON}\n")
    (tmp_path / "runc").chmod(0o755)
    (tmp_path / f"{ID}.json").write_text(json.dumps({"state": "held"}))
    (tmp_path / ID).mkdir()
    begun = int(read_stat(app.pid)[21])
    state = {"init_process_pid": app.pid, "init_process_start": begun}
    (tmp_path / ID / "state.json").write_text(json.dumps(state))
    app.cgroup.freezer.freeze()
    return app


def resume(tmp_path: Path) -> int:
    environment = {"LIVEMIG_HOLD_DIR": str(tmp_path), "LIVEMIG_RUNC": str(tmp_path / "runc")}
    return subprocess.run(
        [RUNTIME, "--root", tmp_path, "resume", ID],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        check=False,
        timeout=pace.limit(20),
    ).returncode


def test_it_may_be_thawed_from_the_kill_on(held: App, tmp_path: Path) -> None:
    """Whether it waits for its end in cgroup v1, or is just ending in v2."""
    assert resume(tmp_path) == REFUSED
    os.kill(held.pid, signal.SIGKILL)
    assert resume(tmp_path) == PASSED_ON
    held.cgroup.freezer.thaw()
    held.wait()
