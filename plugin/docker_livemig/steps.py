"""The steps of a move, named in one place: phases that a peer enters, states that it writes down.

ARCHITECTURE.md ("States") says what each side knows in each state and who decides. A step that is
added here needs a case in tests/docker/test_steps.py, which compares both lists.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class SourcePhase(StrEnum):
    """What the source's peer is doing, in this order."""

    CONNECT = "connect"
    PREPARE = "prepare"
    IMAGE = "image"
    CREATE = "create"
    FILES = "files"
    ROUND = "round"
    FREEZE = "freeze"
    LAST_ROUND = "last-round"
    STATE = "state"
    REBUILD = "rebuild"
    COMMIT = "commit"
    FINISH = "finish"
    FAREWELL = "farewell"


class TargetPhase(StrEnum):
    """What the target's peer is doing, in this order."""

    ACCEPT = "accept"
    IMAGE = "image"
    CREATE = "create"
    FOLLOW = "follow"
    REBUILD = "rebuild"
    STAND = "stand"
    START = "start"
    FINISH = "finish"


class SourceState(StrEnum):
    """The last line of a source's journal; no journal is presumed to be an abort.

    ``begun``: the container runs, the target may have parts of it. ``freezing``: it has no restart
    policy any more, and is frozen or will be; the target may be ready. ``committed``: it never runs
    again here, unless the target's copy is lost. ``returned``: it runs here, for good; the target
    may not know yet.
    """

    BEGUN = "begun"
    FREEZING = "freezing"
    COMMITTED = "committed"
    RETURNED = "returned"


class TargetState(StrEnum):
    """The last line of a target's journal; no journal is a host that holds nothing.

    Up to ``held`` the copy is not complete, and this host may undo all by itself. ``ready``: it is
    complete and frozen; the source decides. ``started``: it runs, for good. ``running``: Docker
    knows that too; only the source's farewell is missing. ``lost``: it has ended before it ran,
    and never will; the source may not know yet.
    """

    ACCEPTED = "accepted"
    LOADING = "loading"
    CREATING = "creating"
    HELD = "held"
    READY = "ready"
    STARTED = "started"
    RUNNING = "running"
    LOST = "lost"


UNDONE_ALONE = frozenset(
    {TargetState.ACCEPTED, TargetState.LOADING, TargetState.CREATING, TargetState.HELD}
)
"""States of a target in which it may undo everything without asking."""

ANSWER = 120.0
"""Seconds that the other side has for an answer; a send that moves no byte has as many."""

DISK_ANSWER = 600.0
"""Seconds that the target has for IMAGE_DONE, since Docker registers layers once it has all of
them, and for ROOTFS_DONE while the container runs: by then all of it is on the disk."""

LIMITS: dict[SourcePhase, float] = {
    SourcePhase.CONNECT: 90.0,
    SourcePhase.PREPARE: 180.0,
    SourcePhase.CREATE: 180.0,
    SourcePhase.FREEZE: 60.0,
    SourcePhase.STATE: 60.0,
    SourcePhase.REBUILD: 180.0,
}
"""Seconds that a phase may take. The others carry any amount of data: in them each answer and each
send has its limit (ANSWER). What follows the commit is not cancelled any more."""


P = TypeVar("P", SourcePhase, TargetPhase)


def reach(phase: P) -> P:
    """Say that a phase begins. One function for all of them, so that it can be watched."""
    return phase
