"""`docker livemig recover`: end moves whose peers are gone, from either host.

The source decides (settle). Where the target is asked to recover, it goes to the source for the
decision. Where the other host cannot be asked, the operator's word counts.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import docker
from docker_livemig import copies, engine_api, log
from docker_livemig.journal import Journal
from docker_livemig.lifecycle import LEAVING
from docker_livemig.messages import Resume, Settle
from docker_livemig.requests import Outcome, Recover, Recovered
from docker_livemig.settle import await_status, settle
from docker_livemig.standing import say_where, start_copy
from docker_livemig.steps import SourceState, TargetState
from docker_livemig.sweep import give_back, is_source, look_after_move
from docker_livemig.way import NO_CONNECTION, Unreachable, dial
from livemig.errors import (
    Contradicted,
    HostError,
    InDoubt,
    LivemigError,
    NoSuchMove,
    UsageError,
)
from livemig.frames import FrameType
from livemig.link import Link
from livemig.wire import to_wire

NOTHING = "nothing of it is left here"
GONE = ("gone", *LEAVING)
_DYING = 2.0  # seconds in which a peer that was killed has let go of its move


def recover(request: Recover, client: Link) -> None:
    """End the move that is asked for, or all; tell ``client`` how each ended.

    What stands in the way of the one that is asked for is raised; where all are, it is the outcome
    of that one, which stays in doubt. What the operator says holds for one move.
    """
    if (request.force or request.other) and not request.move_id:
        raise UsageError(
            "--abort, --commit and --other are about one move: name it by its ID",
            hint="`docker livemig status` lists them",
        )
    outcomes, unreachable = [], Unreachable()
    for journal in find(request.move_id):
        if not journal.take(_DYING if request.move_id else 0):
            if request.move_id:
                raise journal.under_way()
            continue
        try:
            with engine_api.connected(journal.engine) as api:
                outcomes.append(_Case(api, journal, request, unreachable).end())
        except Exception as error:
            if request.move_id:
                raise
            outcomes.append(Outcome(journal.move_id, "", "in-doubt", _in_words(error)))
        finally:
            journal.leave()
    client.send(FrameType.RECOVERED, to_wire(Recovered(os.uname().nodename, tuple(outcomes))))


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error)
    known = error if isinstance(error, LivemigError) else log.defect(error)
    return f"{known}; {known.hint}" if known.hint else str(known)


def find(move_id: str) -> list[Journal]:
    """Return the journal of a move, whose ID may be cut short, or all; NoSuchMove."""
    found = [journal for journal in Journal.all() if journal.move_id.startswith(move_id)]
    if move_id and len(found) != 1:
        raise NoSuchMove(
            f"{os.uname().nodename} knows {len(found) or 'no'} moves whose ID begins with "
            f"{move_id!r}",
            hint="`docker livemig status` lists them; one that has ended is not kept",
        )
    return found


def decide_for_target(request: Settle, link: Link) -> None:
    """Decide a move as its source, for the target on the other end of ``link``."""
    journal = Journal(request.move_id)
    if not journal.take(_DYING):
        raise journal.under_way()
    try:
        with engine_api.connected(journal.engine) as api:
            if journal.state:
                look_after_move(api, journal)
            settle(api, journal, link, await_status(link, journal.move_id), request.force)
    finally:
        journal.leave()


@dataclass(frozen=True)
class _Case:
    """One move that is to be ended on this host, whose journal is ours now."""

    api: docker.APIClient
    journal: Journal
    request: Recover
    unreachable: Unreachable
    name: str = ""

    def end(self) -> Outcome:
        """Do what this host can decide, and have the rest decided."""
        details = self.journal.details()
        case = replace(self, name=copies.spec_of(self.journal).name) if details else self
        source = is_source(self.journal)
        look_after_move(self.api, self.journal)
        if not self.journal.state:
            return case.outcome("runs-here" if source else "ended", "undone")
        return case.as_source() if source else case.as_target()

    def outcome(self, result: str, text: str) -> Outcome:
        """Return how this move ended."""
        return Outcome(self.journal.move_id, self.name, result, text)

    def in_doubt(self, host: str, error: HostError) -> InDoubt:
        """Return the error for a move that nobody but the operator can decide."""
        return InDoubt(
            f"the move {self.journal.move_id} of {self.name} is {self.journal.state} here, and "
            f"{host} cannot be asked: {error.message}",
            hint="`docker livemig status` on both hosts tells where it stands (`docker ps` takes a "
            "frozen copy for one that runs); then have it run on the target by "
            f"`docker livemig recover {self.journal.move_id} --commit`, or on the source by "
            f"--abort; --other names another way to {host}",
        )

    # On the source

    def as_source(self) -> Outcome:
        """Ask the target where it stands, and decide."""
        try:
            other = dial(self.journal, self.request, self.unreachable)
        except NO_CONNECTION as error:
            return self.source_alone(self.journal.details(), error)
        with closing(other):
            other.link.send(FrameType.RESUME, to_wire(Resume(self.journal.move_id)))
            status = await_status(other.link, self.journal.move_id)
            return settle(self.api, self.journal, other.link, status, self.request.force)

    def source_alone(self, details: dict[str, Any], error: HostError) -> Outcome:
        """Take the operator's word, where this host knows of nothing that is against it."""
        force, journal, host = self.request.force, self.journal, details["host"]
        container = copies.spec_of(journal).id
        again = f"{host} cannot be asked ({error.message}): recover again when it can"
        if journal.state == SourceState.RETURNED:
            if force == "commit":
                raise Contradicted(
                    f"the move {journal.move_id} was not committed, and {self.name} runs on here",
                    hint="leave the option out",
                )
        elif self.given_up(details, container):
            if details.get("decided"):
                copies.end(self.api, journal)  # as far as it had not come
            if force == "abort":
                raise Contradicted(
                    f"{self.name} was given up here, to run on {host}: there is nothing to run"
                )
            return self.outcome("runs-there", f"given up here; {again}")
        elif not force:
            raise self.in_doubt(host, error)
        elif force == "commit":
            journal.append(SourceState.COMMITTED, decided=True)
            copies.end(self.api, journal)
            return self.outcome("runs-there", f"given up here; {again}")
        give_back(self.api, journal)
        result, left = self.left(container)
        return self.outcome(result, f"undone: {left}; {again}")

    def given_up(self, details: dict[str, Any], container: str) -> bool:
        """Tell whether this host, the source, has nothing any more that might run."""
        if self.journal.state != SourceState.COMMITTED:
            return False
        return bool(details.get("decided")) or copies.look(self.api, container).status in GONE

    # On the target

    def as_target(self) -> Outcome:
        """Have the source decide."""
        details = self.journal.details()
        source = str(details.get("source", ""))
        ran = self.journal.state in (TargetState.STARTED, TargetState.RUNNING)
        try:
            other = dial(self.journal, self.request, self.unreachable)
        except NO_CONNECTION as error:
            return self.target_alone(source, error)
        with closing(other):
            wish = Settle(self.journal.move_id, self.request.force)
            other.link.send(FrameType.SETTLE, to_wire(wish))
            say_where(self.api, self.journal, other.link)
        result, left = self.left(str(details.get("container", "")))
        # What is undone is removed; so is, once it has ended, what was started with --rm.
        done = "undone" if left == NOTHING and not ran else "completed"
        return self.outcome(result, f"{done}: {left}")

    def left(self, container: str) -> tuple[str, str]:
        """Return what this host has of the container: as a result, and in words."""
        copy = copies.look(self.api, container)
        if copy.lives or copy.status == "restarting":
            return "runs-here", "it runs here"
        if copy.status in GONE:
            return "ended", NOTHING
        return "ended", f"it is here, and has ended ({copy.status})"

    def target_alone(self, host: str, error: HostError) -> Outcome:
        """Take the operator's word, where this host knows of nothing that is against it."""
        force, state, details = self.request.force, self.journal.state, self.journal.details()
        again = f"{host} cannot be asked ({error.message}): recover again when it can"
        if state == TargetState.READY:
            if not force:
                raise self.in_doubt(host, error)
            return self.ready_alone(again)
        if state == TargetState.LOST:
            if force == "commit":
                raise Contradicted(f"the copy of {self.name} is lost: there is nothing to run")
            return self.outcome("ended", f"{NOTHING}; {again}")
        if force == "abort":
            raise Contradicted(
                f"container {self.name} runs here, with what it did since it arrived",
                hint="`docker rm -f` ends it, if that is what you want",
            )
        if force == "commit":
            self.journal.remove()
            again = "the source was not asked"
        result, left = self.left(str(details.get("container", "")))
        return self.outcome(result, f"{left}; {again}")

    def ready_alone(self, again: str) -> Outcome:
        """Do with a complete copy what the operator says."""
        if self.request.force == "abort":
            self.journal.append(TargetState.LOST)
            copies.discard(self.api, self.journal)
            return self.outcome("ended", f"removed here; {again}")
        start_copy(self.api, self.journal)
        look_after_move(self.api, self.journal)
        return self.outcome("runs-here", f"it runs here; {again}")
