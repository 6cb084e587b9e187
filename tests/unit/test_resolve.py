"""A container's standard streams are told from each other, wherever its program has moved them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from docker_livemig import resolve
from livemig.errors import NotCarried, NotRunning
from livemig.model import Role
from tests import pace
from tests.unit.test_containers import SPEC

IN, OUT, ERR = Role.STDIN, Role.STDOUT, Role.STDERR
# What the program has done, and the roles of its pipes: those that Docker made for these.
TOLD = {
    "nothing": (":", {IN: IN, OUT: OUT, ERR: ERR}),
    "joined": ("exec 2>&1", {IN: IN, OUT: OUT}),
    "copied": ("exec 3>&1 4>&2", {IN: IN, OUT: OUT, ERR: ERR}),
    "output-moved": ("exec 3>&1 >/dev/null", {IN: IN, OUT: OUT, ERR: ERR}),
    "errors-moved": ("exec 3>&2 2>/dev/null", {IN: IN, OUT: OUT, ERR: ERR}),
    "output-at-0": ("exec 3<&0 0>&1 >/dev/null", {IN: IN, OUT: OUT, ERR: ERR}),
    "opened-again": ("exec 0<>/dev/stdin 1<>/dev/stdout", {IN: IN, OUT: OUT, ERR: ERR}),
    "all-closed": ("exec </dev/null >/dev/null 2>/dev/null", {}),
}
NOT_TOLD = {
    "both-moved": "exec 4>&1 3>&2 >/dev/null 2>/dev/null",
    "one-moved-the-other-closed": "exec 3>&2 >/dev/null 2>/dev/null",
    "one-moved-the-other-at-both": "exec 3>&1 >&2",
}
Begin = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start a program with three pipes to this process, as Docker's shim does."""
    with ExitStack() as stack:

        def beginner(script: str) -> subprocess.Popen[bytes]:
            argv = ["sh", "-c", f"{script}; exec sleep 60"]
            pipe = subprocess.PIPE
            program = stack.enter_context(
                subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe)
            )
            stack.callback(program.kill)
            deadline = time.monotonic() + pace.limit(15)
            while b"sleep" not in Path(f"/proc/{program.pid}/cmdline").read_bytes().split(b"\0"):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            return program

        yield beginner


def inodes(program: subprocess.Popen[bytes]) -> dict[int, Role]:
    """Return what each of the pipes was made for."""
    pipes = program.stdin, program.stdout, program.stderr
    return {
        os.fstat(pipe.fileno()).st_ino: role
        for pipe, role in zip(pipes, Role, strict=True)
        if pipe is not None
    }


@pytest.mark.parametrize(("script", "roles"), TOLD.values(), ids=TOLD)
def test_a_stream_is_what_it_was_made_for(
    begin: Begin, script: str, roles: dict[Role, Role]
) -> None:
    program = begin(script)
    made = inodes(program)
    found = resolve._streams(program.pid)
    assert {made[inode]: role for inode, role in found.items()} == roles


@pytest.mark.parametrize("script", NOT_TOLD.values(), ids=NOT_TOLD)
def test_one_that_nothing_tells_is_refused(begin: Begin, script: str) -> None:
    program = begin(script)
    with pytest.raises(NotCarried, match=rf"^process {program.pid}: descriptor 3 leads .* which$"):
        resolve._streams(program.pid)


BUSY = "echo begun; while :; do echo x >>/dev/null; done"


def test_one_that_is_away_just_now_is_not_overlooked() -> None:
    """A shell whose output goes to a file for a moment keeps it at another number meanwhile."""
    pipe, argv = subprocess.PIPE, ["sh", "-c", BUSY]
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as program:
        try:
            assert program.stdout
            assert program.stdout.readline() == b"begun\n"
            found = [resolve._streams(program.pid) for _ in range(500)]
        finally:
            program.kill()
        assert [each for each in found if each != inodes(program)] == []


@pytest.mark.parametrize("why", [FileNotFoundError, ProcessLookupError])
def test_one_that_ends_while_it_is_looked_at_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, why: type[OSError]
) -> None:
    def look(pid: int) -> None:
        raise why(2, f"No such file or directory: '/proc/{pid}/maps'")

    monkeypatch.setattr(resolve, "refuse_process", look)
    freezer = cast("Any", None)
    with pytest.raises(NotRunning, match="container recorder ended"):
        resolve.refuse(SPEC, resolve.Resolved((2**22,), freezer, {}))
