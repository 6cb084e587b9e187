"""The source's connection to the target's peer, which can be made anew when it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from docker_livemig import far
from docker_livemig.messages import Resume, Status
from docker_livemig.requests import Hello, MoveRequest
from docker_livemig.steps import ANSWER
from livemig.errors import HostError, InDoubt, LinkLost, LivemigError, StepTimeout, TransferError
from livemig.frames import Buffer, Frame, FrameType
from livemig.link import Link
from livemig.wire import from_wire, to_wire

_T = TypeVar("_T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0


class Session:
    """Frames to and from the peer on the target of one move."""

    def __init__(self, request: MoveRequest, move_id: str) -> None:
        self._request = request
        self._move_id = move_id
        self._far = far.connect_far(request.host, request)
        self._sent_before = 0

    @property
    def link(self) -> Link:
        """The connection as it is now."""
        return self._far.link

    @property
    def hello(self) -> Hello:
        """What the target's peer said of itself."""
        return self._far.hello

    @property
    def bytes_sent(self) -> int:
        """Bytes sent on all connections of this move."""
        return self._sent_before + self.link.bytes_sent

    def processes(self) -> list[int]:
        """Return the processes that carry the connection on this side."""
        return [self._far.process.pid]

    def send(self, kind: FrameType, body: object = None, payload: Buffer = b"") -> None:
        """Send a frame; ``body`` is a dataclass, or what msgpack carries."""
        self.link.send(kind, to_wire(body), payload)

    def expect(self, kind: FrameType, cls: type[_T], timeout: float = ANSWER) -> _T:
        """Return the body of the next frame, which must be of that kind; StepTimeout after so long.

        ``timeout``: in seconds.
        """
        return from_wire(cls, self._await(kind, timeout).body)

    def confirm(self, kind: FrameType, timeout: float = ANSWER) -> None:
        """Wait for a frame without a body, for so many seconds (then StepTimeout)."""
        self._await(kind, timeout)

    def _await(self, kind: FrameType, timeout: float = ANSWER) -> Frame:
        try:
            return self.link.expect(kind, timeout=timeout)
        except LinkLost as error:
            if self.link.dead is not None:
                raise
            # The link lives: it is the step that does not end.
            raise StepTimeout(
                f"{self.hello.host} did not answer with {kind.name} within {timeout:g} s"
            ) from error

    def resume(self, patience: float, go_on: Callable[[Status], _T]) -> _T:
        """Make the connection anew, and return what ``go_on`` makes of what the target says then.

        A connection that is lost again, in ``go_on`` too, leads to the next try, for ``patience``
        seconds; then the error of the last one is raised.
        """
        deadline = time.monotonic() + patience
        pause = _FIRST_PAUSE
        while True:
            try:
                self._reconnect()
                return go_on(self.expect(FrameType.STATUS, Status))
            except (TransferError, HostError):
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)  # nothing tells when a host can be reached again
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _reconnect(self) -> None:
        self._sent_before += self.link.bytes_sent
        self._far.close()
        self._far = far.connect_far(self._request.host, self._request)
        self.send(FrameType.RESUME, Resume(self._move_id))

    def abort(self, *, held: bool, patience: float) -> None:
        """Tell the target to undo everything and wait until it has.

        ``held`` says that it may be waiting for our word: then the connection is made anew where it
        is lost, or where the target broke off itself. Raises what kept the word from getting there.
        """
        try:
            self._abort(patience)
        except LivemigError:
            if not held:
                return  # a target that has lost us, or that broke off itself, cleans itself
            self.resume(patience, lambda status: self._abort_ready(status, patience))

    def _abort_ready(self, status: Status, patience: float) -> None:
        if status.state == "running":
            raise InDoubt(f"{self.hello.host} was told by its operator to let the copy run")
        if status.state == "busy":
            raise LinkLost(f"a peer on {self.hello.host} is at work on the move")
        self._abort(patience)

    def _abort(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        self.send(FrameType.ABORT, {"message": "the source gave the move up"})
        while time.monotonic() < deadline:
            if self.link.receive(patience).type is FrameType.ABORTED:
                return
        raise StepTimeout(f"{self.hello.host} did not undo the move within {patience:g} s")

    def close(self) -> None:
        """Close the connection."""
        self._far.close()
