"""The target from READY on: a copy that stands frozen until the source's word, and then runs.

It needs nothing of the peer that made it. When that one is lost, with its connection or by itself,
the copy stays as it is, and the next peer that the source or the operator sends takes it over.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, suppress

import docker
from docker_livemig import containers, copies, lifecycle
from docker_livemig.journal import Journal
from docker_livemig.messages import Commit, Finish, Finished, Running, Status
from docker_livemig.steps import UNDONE_ALONE, TargetPhase, TargetState, reach
from livemig import terminal, typed
from livemig.errors import LivemigError, ProtocolError, TargetError, TransferError
from livemig.frames import Frame, FrameType
from livemig.freezer import Freezer
from livemig.link import Link
from livemig.model import Typed
from livemig.refusing import refusing
from livemig.stdin import feed, reopen
from livemig.wire import from_wire, to_wire

_LAST_WORDS = 5.0
_STEP = 600.0  # seconds between two frames of the source, heartbeats apart
_FEED_LIMIT = 10.0
_LETTING_GO = 30.0  # seconds in which a peer notices that it has lost its source

_WORDS = {"": "unknown", "started": "running"}

Feed = Callable[[bytes], int]
PutTyped = Callable[[Typed], None]


def take_over(api: docker.APIClient, journal: Journal, link: Link) -> None:
    """Say over ``link`` where a move stands on this host, and carry out the source's word."""
    if not journal.take(_LETTING_GO):
        link.send(FrameType.STATUS, to_wire(Status("busy")))
        return
    try:
        look_after(api, journal)
        say_where(api, journal, link)
    finally:
        journal.leave()


def say_where(api: docker.APIClient, journal: Journal, link: Link) -> None:
    """Say STATUS, and carry out what the source makes of it; the caller owns the journal."""
    word = _WORDS.get(journal.state, journal.state)
    link.send(FrameType.STATUS, to_wire(Status(word, journal.details().get("container", ""))))
    Standing(api, journal, link).go_on()


def start_copy(api: docker.APIClient, journal: Journal, freezer: Freezer | None = None) -> None:
    """Let the copy run: what was acknowledged from here on is never taken back.

    TargetError where it has ended meanwhile, without running: then it is lost, and noted so.
    """
    reach(TargetPhase.START)
    if freezer is None:
        freezer = copies.freezer_of(copies.look(api, copies.container_of(journal)).pid)
    if freezer is None or not freezer.processes():
        look_after(api, journal)
        raise TargetError(
            f"the copy of {copies.spec_of(journal).name} on {os.uname().nodename} was ended before "
            "it ran"
        )
    journal.append(TargetState.STARTED)
    freezer.thaw()


def look_after(api: docker.APIClient, journal: Journal) -> None:
    """Do what this host can decide alone about a move of which it is the target.

    What is not complete is undone; a complete copy that has ended is lost, and removed; one that
    runs is made known to Docker.
    """
    state = journal.state
    if not state or state in UNDONE_ALONE:
        copies.discard(api, journal)
        journal.remove()
    elif state == TargetState.READY:
        if not copies.look(api, copies.container_of(journal)).lives:
            journal.append(TargetState.LOST)
            copies.discard(api, journal)
    elif state == TargetState.LOST:
        copies.discard(api, journal)
    elif state == TargetState.STARTED:
        copies.settle_in(api, journal)
        journal.append(TargetState.RUNNING)


class Standing:
    """A copy that is complete, in one of the states from READY on; its peer owns the journal.

    ``container`` is its ID, by default as the journal has it. ``put`` writes late standard input,
    ``put_typed`` what was typed on the source's terminal; a peer that has not made the copy finds
    its way there again.
    """

    def __init__(
        self,
        api: docker.APIClient,
        journal: Journal,
        link: Link,
        *,
        container: str = "",
        freezer: Freezer | None = None,
        put: Feed | None = None,
        put_typed: PutTyped | None = None,
    ) -> None:
        self._api = api
        self._journal = journal
        self._link = link
        self._freezer = freezer
        self._put = put or self._put_again
        self._put_typed = put_typed or self._put_typed_again
        self._late = b""
        self._container: str = container or journal.details().get("container", "")
        self._notes: list[str] = []

    def go_on(self) -> None:
        """Carry out the source's word, from the state that the journal is in."""
        while (state := self._journal.state) in ("", TargetState.READY, TargetState.LOST):
            reach(TargetPhase.STAND)
            frame = self._link.receive(None if state == TargetState.READY else _STEP)
            if frame.type is FrameType.ABORT:
                self.give_up()
                self._link.send(FrameType.ABORTED)
                self._link.flush(_LAST_WORDS)
                return
            if frame.type is FrameType.FINISH and not state:
                self._link.send(FrameType.FINISHED, to_wire(Finished()))
                return
            if frame.type is not FrameType.COMMIT or state != TargetState.READY:
                raise ProtocolError(f"{self._link.name} sent {frame.type.name} to a copy {state}")
            self._take_typed(frame)
            self.start()
        self.finish()

    def give_up(self) -> None:
        """Remove the copy and all that came with it."""
        if self._journal.state:
            copies.discard(self._api, self._journal)
            self._journal.remove()

    def _take_typed(self, frame: Frame) -> None:
        """Put in what was typed. The move is decided: what goes wrong here is only told."""
        try:
            found = from_wire(Commit, frame.body or {}).typed
            if found is not None:
                self._put_typed(found)
        except (LivemigError, OSError) as error:
            self._notes.append(f"what was typed and not read is lost: {error}")

    def start(self) -> None:
        """Let the copy run, and say so."""
        start_copy(self._api, self._journal, self._freezer)
        with suppress(TransferError):
            self._link.send(FrameType.RUNNING, to_wire(Running(self._container)))

    def settle_in(self) -> None:
        """Have Docker know that it runs. What fails is a note, and is done later (sweep)."""
        if self._journal.state != TargetState.STARTED:
            return
        try:
            copies.settle_in(self._api, self._journal)
            self._journal.append(TargetState.RUNNING)
            spec = copies.spec_of(self._journal)
            self._notes += containers.changed_ways(self._api, self._container, spec)
        except (LivemigError, OSError) as error:
            self._notes.append(
                f"Docker on {os.uname().nodename} does not know yet that the container runs: "
                f"{error}; `docker livemig recover {self._journal.move_id}` there tells it"
            )

    def finish(self) -> None:
        """Take late input until the source is gone, and say farewell; LinkLost where it is lost."""
        reach(TargetPhase.FINISH)
        self.settle_in()
        kind = None
        while kind is not FrameType.FINISH:  # with that comes what a terminal had no room for
            frame = self._next()
            kind = frame.type
            self._take_input(bytes(frame.payload))
        self._pass_on(from_wire(Finish, frame.body or {}))
        if self._journal.state == TargetState.RUNNING:
            self._journal.remove()
        self._link.send(FrameType.FINISHED, to_wire(Finished(tuple(self._notes))))
        self._link.flush(_LAST_WORDS)

    def _pass_on(self, word: Finish) -> None:
        try:
            lifecycle.pass_on(self._api, self._container, stop=word.stop, restart=word.restart)
        except LivemigError as error:
            self._notes.append(f"the container was to be stopped or restarted here: {error}")

    def _next(self) -> Frame:
        return self._link.expect(FrameType.STDIN, FrameType.FINISH, timeout=_STEP)

    def _take_input(self, data: bytes) -> None:
        if lost := self._put(data):
            self._notes.append(f"{lost} bytes of late standard input found no room")

    def _put_again(self, data: bytes) -> int:
        data, self._late = self._late + data, b""
        if not data:
            return 0
        details = self._journal.details()
        pid = copies.look(self._api, self._container).pid
        if pid and (pty := terminal.find(pid)) is not None:
            with closing(pty):
                return feed(pty.master, data, _FEED_LIMIT)
        descriptor = reopen(pid, int(details.get("stdin", 0))) if pid else None
        if descriptor is None:
            return len(data)
        try:
            return feed(descriptor, data, _FEED_LIMIT)
        finally:
            os.close(descriptor)

    @refusing("putting in what was typed")
    def _put_typed_again(self, found: Typed) -> None:
        pid = copies.look(self._api, self._container).pid
        if not pid or (pty := terminal.find(pid)) is None:
            raise ProtocolError("what was typed came for a container without a terminal")
        with closing(pty):
            self._late = typed.put_again(pty, found)
