"""The program of the hosts, which stops where it is told to: at a named step of a move.

Installed as a host's `docker-livemig`, and in place of the peers that it starts, it is the real
program, but at each step it looks into DIRECTORY. The step that the file `plan` names is not gone
past: the process takes the plan away, says its PID in the pipe `at`, and waits for a byte in the
pipe `go`. Each step is noted in the file `trace`, where that exists.

Steps are called "ROLE PHASE", and "ROLE <STATE" and "ROLE >STATE" before and after a line of the
journal is written; where it is removed the state is "-".
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker_livemig import far, journal, main, steps
from docker_livemig.journal import Journal

DIRECTORY = Path("/run/livemig-stops")
SOURCE, TARGET = "source", "target"


def points() -> list[str]:
    """Return every step of a move, of the states that a move goes through by itself."""
    found = [f"{SOURCE} {phase}" for phase in steps.SourcePhase]
    found += [f"{TARGET} {phase}" for phase in steps.TargetPhase]
    states = [f"{SOURCE} {mark}{state}" for state in steps.SourceState for mark in "<>"]
    states += [f"{TARGET} {mark}{state}" for state in steps.TargetState for mark in "<>"]
    removals = [f"{role} {mark}-" for role in (SOURCE, TARGET) for mark in "<>"]
    return found + states + removals


def stop_at(point: str) -> None:
    """Stop here, if this is the step that the plan names."""
    with suppress(FileNotFoundError):
        descriptor = os.open(DIRECTORY / "trace", os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, f"{point}\n".encode())
        os.close(descriptor)
    with suppress(FileNotFoundError):
        if (DIRECTORY / "plan").read_text() != point:
            return
        os.rename(DIRECTORY / "plan", DIRECTORY / "done")
        (DIRECTORY / "at").write_text(f"{os.getpid()}\n")
        with (DIRECTORY / "go").open("rb", buffering=0) as go:
            go.read(1)


def role_of(state: str) -> str:
    """Return whose journal has a line of this state."""
    return SOURCE if state in frozenset(steps.SourceState) else TARGET


def install() -> None:
    """Have each step, and each line of a journal, looked at before it is gone past."""

    def reach(phase: Any) -> Any:
        stop_at(f"{SOURCE if isinstance(phase, steps.SourcePhase) else TARGET} {phase}")
        return phase

    append, remove = Journal.append, Journal.remove

    def stopping_append(self: Journal, state: str, /, **details: Any) -> None:
        again = state == self.state  # one line more of the same state
        if not again:
            stop_at(f"{role_of(state)} <{state}")
        append(self, state, **details)
        if not again:
            stop_at(f"{role_of(state)} >{state}")

    def stopping_remove(self: Journal) -> None:
        role = role_of(self.state) if self.state else ""
        stop_at(f"{role} <-")
        remove(self)
        stop_at(f"{role} >-")

    steps.reach = reach
    journal.Journal.append = stopping_append  # type: ignore[method-assign]
    journal.Journal.remove = stopping_remove  # type: ignore[method-assign]
    far.local_argv = lambda: [sys.executable, "-P", "-m", __spec__.name, "peer", "--stdio"]


if __name__ == "__main__":
    install()
    sys.exit(main.main())
