"""Open files of a process that goes on to open and close them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from livemig.extract import read_descriptors
from livemig.extract.files import Descriptions
from livemig.model import Opened

pytestmark = pytest.mark.root

# One number that comes and goes, one that is another file each time, and one that stays.
PROGRAM = """
import os
stays = os.open("/etc/passwd", os.O_RDONLY)
os.dup2(stays, 100)
os.dup2(0, 2)
while True:
    os.close(os.open("/etc/group", os.O_RDONLY))
    os.dup2(stays, 50)
    os.close(50)
"""


@contextmanager
def running(program: str) -> Iterator[int]:
    """Start a program that gives its standard error away once it has begun."""
    argv, null = [sys.executable, "-c", program], subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=null, stdout=null, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr
            assert process.stderr.read() == b""
            yield process.pid
        finally:
            process.kill()


def test_what_is_closed_meanwhile_is_not_open() -> None:
    with running(PROGRAM) as pid:
        for _ in range(400):
            descriptions = Descriptions({})
            found = read_descriptors(pid, descriptions)
            kinds = {each.number: descriptions.found[each.description].kind for each in found}
            assert kinds[100] is Opened.FILE
            assert kinds[0] is kinds[1] is Opened.DEVICE
