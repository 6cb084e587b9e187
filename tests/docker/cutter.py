"""Stands between sshd and a target's peer, and cuts the connection at chosen frames, each once.

The first frame that the file PLAN names (numbers, a line each) is not passed on: this program ends
in its place, and the connection with it, while the peer lives on. Then the next one is due.
"""

from __future__ import annotations

import sys
from pathlib import Path

from livemig.frames import FrameType
from tests.docker.passing import Passes, stand_between

PLAN = Path("/run/livemig-cut")


def planned() -> FrameType | None:
    """Return the frame at which the next cut is due."""
    try:
        return FrameType(int(PLAN.read_text().split()[0]))
    except FileNotFoundError:
        return None


def done() -> None:
    """Take the cut that was made off the plan; a plan that is done is removed."""
    if rest := PLAN.read_text().split()[1:]:
        PLAN.write_text("\n".join(rest))
    else:
        PLAN.unlink()


def cutting(due: FrameType) -> Passes:
    """Let nothing pass from this frame on."""

    def passes(kind: FrameType) -> bool:
        if kind is due:
            done()
        return kind is not due

    return passes


def main() -> int:
    """Be the wrapper."""
    due = planned()
    return stand_between(None if due is None else cutting(due))


if __name__ == "__main__":
    sys.exit(main())
