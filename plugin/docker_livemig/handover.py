"""The source's side of a move from the commit on: the target's copy is the one, and this one goes.

The line "committed" in the journal is the point of no return. Whoever loses the target after it
tries to reach it again, and leaves the rest to `docker livemig recover`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import docker
from docker_livemig import copies
from docker_livemig.containers import ContainerSpec
from docker_livemig.journal import Journal
from docker_livemig.lifecycle import stop_limit
from docker_livemig.meanwhile import Meanwhile
from docker_livemig.messages import Commit, Finish, Finished, Running, Status
from docker_livemig.session import Session
from docker_livemig.steps import ANSWER, SourcePhase, SourceState
from docker_livemig.watch import ClientWatch
from livemig.errors import InDoubt, LivemigError, TargetError, TransferError
from livemig.frames import FrameType
from livemig.outgoing import Outgoing
from livemig.stdin import LateInput
from livemig.wire import to_wire

_PATIENCE = 120.0  # seconds that a committed move tries to reach its target
_FAREWELL = 30.0
_LAST_INPUT = 5.0


@dataclass
class Handover:
    """One container, frozen here and complete there: ``decide``, ``commit``, ``finish``.

    ``host`` is the target as the user called it; ``notes`` gets what he should know. ``lost``: the
    target has said that its copy was ended before it ran, so the container is to run on here.
    """

    api: docker.APIClient
    spec: ContainerSpec
    host: str
    journal: Journal
    watch: ClientWatch
    meanwhile: Meanwhile
    session: Session
    outgoing: Outgoing
    notes: list[str]
    lost: bool = False
    _commitment: Commit = field(init=False, default_factory=Commit)

    def decide(self) -> None:
        """Decide for the target: from here on the source's copy does not run again."""
        self.watch.enter(SourcePhase.COMMIT)
        self.outgoing.refuse_signals()
        self.meanwhile.committed()
        self.watch.commit()
        self.journal.append(SourceState.COMMITTED)
        self._commitment = self._take_typed()

    def _take_typed(self) -> Commit:
        try:
            return Commit(self.outgoing.typed())
        except OSError as error:
            self.notes.append(f"what was typed and not read is lost: {error}")
            return Commit()

    def commit(self) -> Running:
        """Tell the target, and wait until its copy runs.

        InDoubt where it cannot be told; TargetError where its copy is ``lost``.
        """
        try:
            return self._tell_commit()
        except LivemigError as error:
            return self._commit_again(error)

    def _tell_commit(self) -> Running:
        self.session.send(FrameType.COMMIT, to_wire(self._commitment))
        return self.session.expect(FrameType.RUNNING, Running)

    def _commit_again(self, reason: LivemigError) -> Running:
        """Bring the decision to a target whose connection was lost."""
        self.watch.report("resume", f"{reason.message}; connecting again")
        try:
            return self.session.resume(_PATIENCE, self._commit_where_it_stands)
        except LivemigError as error:
            if self.lost or isinstance(error, InDoubt):
                raise
            raise self._in_doubt(error.message) from error

    def _commit_where_it_stands(self, status: Status) -> Running:
        if status.state == "running":
            return Running(status.container_id)
        if status.state == "ready":
            try:
                return self._tell_commit()
            except TargetError as error:  # what became of the copy then, its journal says
                raise TransferError(error.message) from error
        if status.state == "lost":
            self.lost = True
            raise TargetError(
                f"{self.host} lost the copy of {self.spec.name} before it ran; the "
                "container runs on at the source",
                hint="was the host, or its Docker, restarted? move it again",
            )
        if status.state == "busy":
            raise TransferError(f"a peer on {self.host} is at work on the move")
        raise self._in_doubt(f"the move is {status.state} there")

    def _in_doubt(self, problem: str) -> InDoubt:
        return InDoubt(
            f"container {self.spec.name} was handed over to {self.host}, which does not "
            f"confirm that it runs there: {problem}",
            hint="the copy here stays frozen, and must not be restarted: `docker livemig recover "
            f"{self.journal.move_id}` ends the move",
        )

    def finish(self, stdin: LateInput | None) -> None:
        """Remove the source's copy, pass on what still comes, and say farewell to the target.

        What fails is a note: the container runs.
        """
        self.watch.enter(SourcePhase.FINISH)
        self.watch.report("finish", "removing the source's container")
        try:
            self.outgoing.kill()
            self._forward_input(stdin)
            self.meanwhile.await_end()
            self.meanwhile.await_restart()
            copies.end(self.api, self.journal)
            self.journal.remove()
        except (LivemigError, OSError) as error:
            self.notes.append(
                f"the container's remains on the source could not be removed: {error}; "
                f"`docker livemig recover {self.journal.move_id}` does that"
            )
            return
        self.watch.enter(SourcePhase.FAREWELL)
        try:
            told = self._finish_target()
        except LivemigError as error:
            told = (f"{self.host} did not confirm the end: {error.message}",)
        self.notes += told
        self.meanwhile.tell_stopped(self.host, told)
        self.notes += self.meanwhile.notes

    def _finish_target(self) -> tuple[str, ...]:
        try:
            return self._tell_finish()
        except TransferError:
            return self.session.resume(
                _FAREWELL, lambda status: self._tell_finish() if status.state == "running" else ()
            )

    def _tell_finish(self) -> tuple[str, ...]:
        word = self.meanwhile.last_word()
        self.session.send(FrameType.FINISH, word)
        limit = ANSWER + (stop_limit(self.spec.config) if word != Finish() else 0)
        return self.session.expect(FrameType.FINISHED, Finished, limit).notes

    def _forward_input(self, stdin: LateInput | None) -> None:
        if stdin is None:
            return
        try:
            for data in stdin.rest(_LAST_INPUT):
                self.session.send(FrameType.STDIN, None, data)
        except (TransferError, OSError) as error:
            self.notes.append(f"late standard input may be lost: {error}")
