"""Locks that end with their owner, also with one that takes its time to die."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from docker_livemig import lock
from livemig.errors import NotRunning
from livemig.system import procfs
from tests.unit.test_containers import SPEC

# Its first thread ends at the first byte, and so is it seen to be dead; the other at the end of
# input. In the same way a peer that was killed has a thread that still closes what was open.
OWNER = """\
import ctypes, fcntl, os, sys, threading
handle = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(handle, fcntl.LOCK_EX)
def linger():
    os.read(0, 1)
    os._exit(0)
os.write(1, b"x")
os.read(0, 1)
threading.Thread(target=linger).start()
ctypes.CDLL(None).syscall(60, 0)
"""


@contextmanager
def owner(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", OWNER, str(place)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, bufsize=0, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"x"
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has heard enough
        process.stdin.write(b".")


def test_a_free_one_is_had_and_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        handle = lock.acquire(tmp_path)
        assert handle is not None
        assert lock.acquire(tmp_path) is None
        os.close(handle)


def test_a_living_owner_is_not_waited_for(tmp_path: Path) -> None:
    with owner(tmp_path):
        assert lock.acquire(tmp_path) is None


def test_a_dying_owner_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owner(tmp_path) as process:
        say(process)
        while procfs.read_status(process.pid)["State"][0] != "Z":
            assert process.poll() is None
        # It is gone for good only while it is being waited for.
        monkeypatch.setattr("docker_livemig.lock.time.sleep", lambda _: say(process))
        handle = lock.acquire(tmp_path)
        assert handle is not None
        os.close(handle)


def test_an_owner_that_goes_before_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = lock._owners
    with owner(tmp_path) as process:

        def late(place: Path) -> list[int]:
            process.kill()
            process.wait()
            return look(place)

        monkeypatch.setattr("docker_livemig.lock._owners", late)
        handle = lock.acquire(tmp_path)
        assert handle is not None
        os.close(handle)


def test_what_is_gone_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock.acquire(tmp_path / "gone")


def test_a_container_that_is_gone_cannot_be_moved(tmp_path: Path) -> None:
    """It was removed when it ended (--rm), a moment after it was looked at."""
    spec = replace(SPEC, upper_dir=str(tmp_path / "gone"))
    with pytest.raises(NotRunning, match="container recorder ended"), lock.alone(spec):
        pass
