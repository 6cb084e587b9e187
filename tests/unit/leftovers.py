"""A fixture that fails a test which leaves a thread, a descriptor or a child process behind.

Use it in a module with ``from tests.unit.leftovers import nothing_left`` and
``pytestmark = pytest.mark.usefixtures(nothing_left.__name__)``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pace


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = os.readlink(entry)
        except FileNotFoundError:  # the descriptor that listed the directory
            continue
    return found


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update((task / "children").read_text().split())
    return found


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.is_alive()}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Compare threads, descriptors and children after the test with those before it."""
    fds, children, threads = _descriptors(), _children(), _threads()
    yield
    deadline = time.monotonic() + pace.limit(2)
    while _threads() - threads and time.monotonic() < deadline:
        (_threads() - threads).pop().join(0.1)
    assert not _threads() - threads, "threads left behind"
    assert not _children() - children, "child processes left behind"
    left = {fd: what for fd, what in _descriptors().items() if fd not in fds}
    assert not left, f"descriptors left behind: {left}"
