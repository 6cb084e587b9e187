"""Open files of a process that goes on to open and close them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from livemig.extract import read_descriptors
from livemig.extract.files import Descriptions
from livemig.model import Opened
from tests import pace

pytestmark = pytest.mark.root

# One number that comes and goes, one that is another file each time, and one that stays.
PROGRAM = """
import os, sys
stays = os.open("/etc/passwd", os.O_RDONLY)
os.dup2(stays, 100)
os.mkdir(sys.argv[1])
while True:
    os.close(os.open("/etc/group", os.O_RDONLY))
    os.dup2(stays, 50)
    os.close(50)
"""


@contextmanager
def running(program: str, ready: Path) -> Iterator[int]:
    """Start a program that makes a directory once it has begun."""
    argv = [sys.executable, "-c", program, str(ready)]
    null = subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=null, stdout=null, stderr=null) as process:
        try:
            deadline = time.monotonic() + pace.limit(10)
            while not ready.is_dir() and time.monotonic() < deadline:
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()


def test_what_is_closed_meanwhile_is_not_open(tmp_path: Path) -> None:
    with running(PROGRAM, tmp_path / "ready") as pid:
        for _ in range(400):
            descriptions = Descriptions({})
            found = read_descriptors(pid, descriptions)
            kinds = {each.number: descriptions.found[each.description].kind for each in found}
            assert kinds[100] is Opened.FILE
            assert kinds[0] is kinds[1] is Opened.DEVICE
