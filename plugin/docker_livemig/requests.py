"""Bodies of the frames that client, source and target exchange about a move as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from livemig.model import LayoutChoice, RoundStat, TrackerChoice

__all__ = [
    "Force",
    "Hello",
    "Mode",
    "MoveRequest",
    "MoveSummary",
    "MoveView",
    "Outcome",
    "Progress",
    "Query",
    "Recover",
    "Recovered",
    "Report",
    "RoundStat",
]

Mode = Literal["live", "stop-and-copy"]
Force = Literal["", "abort", "commit"]


@dataclass(frozen=True)
class Hello:
    """HELLO: who speaks, and the facts of the machine that the other side decides by.

    ``role`` is "client", "source" or "peer"; ``host`` the node name; ``version`` that of the
    program. ``cpu_flags`` are those of /proc/cpuinfo, sorted. ``xstate`` are number, offset and
    size in bytes of what XSAVE saves in its standard format, empty where nobody has asked the CPU.
    ``machine`` is its machine-id(5), empty where it has none.
    """

    protocol: int
    version: str
    role: str
    host: str
    euid: int = -1
    arch: str = ""
    kernel: str = ""
    page_size: int = 0
    cpu_flags: list[str] = field(default_factory=list)
    machine: str = ""
    xstate: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class MoveRequest:
    """MOVE: what the user asked for.

    ``host`` is the target as the user named it, ``destination`` the same as an ssh:// URL, for
    docker contexts are known to the client alone. ``docker_host`` is the unix:// socket of the
    source's engine, empty for the usual one. ``timeout_s`` of 0 is no limit. ``ssh_agent`` is the
    client's agent socket. ``dry_run`` ends the move, undone, where the target has agreed to it.
    ``run_ssh_as`` is the account whose keys and configuration ssh uses, empty for the peer's own;
    the peer sets it, and never takes it from the wire.
    """

    container: str
    host: str
    mode: Mode = "live"
    tracker: TrackerChoice = "auto"
    layout: LayoutChoice = "auto"
    keep_source: bool = False
    dry_run: bool = False
    downtime_limit_ms: int = 100
    max_rounds: int = 30
    cache_mib: int = 64
    verify: bool = False
    timeout_s: float = 0.0
    destination: str = ""
    docker_host: str = ""
    ssh_agent: str = ""
    run_ssh_as: str = ""


@dataclass(frozen=True)
class Progress:
    """PROGRESS: where the move ``move`` (its ID, once it has one in a journal) is.

    ``phase`` is a stable word, ``text`` a sentence for people. In a round: its number, pages and
    bytes sent in it so far, bytes a second, and the pages known to be dirty.
    """

    phase: str
    text: str = ""
    round: int = 0
    pages: int = 0
    bytes: int = 0
    rate: float = 0.0
    dirty: int = 0
    move: str = ""


@dataclass(frozen=True)
class MoveSummary:
    """SUMMARY: what the move did. ``container_id`` is the new one, on the target.

    It is empty where nothing was moved (``dry_run``).

    ``steps`` says how many milliseconds of the downtime each step took on the source,
    ``source_kib`` how much memory the source's peer had at most. A ``total_ms`` of 0 says that
    there are no figures: whoever had them died after the commit, and another peer completed it.
    """

    container: str
    container_id: str
    source: str
    target: str
    mode: str
    tracker: str = ""
    layout: str = ""
    rounds: list[RoundStat] = field(default_factory=list)
    downtime_ms: float = 0.0
    total_ms: float = 0.0
    sent_bytes: int = 0
    steps: dict[str, float] = field(default_factory=dict)
    source_kib: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Query:
    """QUERY: which moves does the host know, or what of the one with this ID?

    ``ask`` has it ask the other host of each too. The rest is as in MoveRequest.
    """

    move_id: str = ""
    ask: bool = False
    docker_host: str = ""
    ssh_agent: str = ""
    run_ssh_as: str = ""


@dataclass(frozen=True)
class MoveView:
    """What a host knows of a move.

    ``role`` is "source" or "target", ``state`` a word of `docker_livemig.steps`, ``copy`` what
    there is of the container here: Docker's word, "frozen" or "gone". ``under_way`` says that a
    peer of this host is at work on it. ``other`` is the other host, ``there`` what it said when
    asked: a state and a copy, "nothing", or why it could not be asked. ``since`` is in seconds
    since the epoch.
    """

    id: str
    role: str
    container: str
    container_id: str
    state: str
    copy: str
    under_way: bool
    since: float
    other: str
    there: str = ""


@dataclass(frozen=True)
class Report:
    """REPORT: the moves that ``host`` knows."""

    host: str
    moves: tuple[MoveView, ...] = ()


@dataclass(frozen=True)
class Recover:
    """RECOVER: end the move with this ID, or all that no peer is at work on.

    ``force`` is the operator's word where the other host cannot be asked, ``other`` how to reach
    it, where it is not reached as the move reached it.
    """

    move_id: str = ""
    force: Force = ""
    other: str = ""
    docker_host: str = ""
    ssh_agent: str = ""
    run_ssh_as: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a move ended: ``result`` is "runs-here", "runs-there", "ended" or "in-doubt".

    ``container_id`` is that of the target's copy, where it is known.
    """

    id: str
    container: str
    result: str
    text: str
    container_id: str = ""


@dataclass(frozen=True)
class Recovered:
    """RECOVERED: how each move ended, on ``host``."""

    host: str
    outcomes: tuple[Outcome, ...] = ()
