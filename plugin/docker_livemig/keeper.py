"""How a new connection finds the peer that holds a container, after the first one was lost.

That peer listens on a Unix socket below /run/livemig/moves. A peer that the source starts anew
(RESUME) passes its standard streams there, and stays until the other one has done with them.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from docker_livemig.journal import Journal
from docker_livemig.messages import Status
from livemig.errors import LinkLost
from livemig.frames import FrameType
from livemig.link import Link
from livemig.wire import to_wire

DIRECTORY = Path("/run/livemig/moves")
_GREETING = b"resume"


class Keeper:
    """Listens for those who ask for the move ``move_id``; a context that ends with it."""

    def __init__(self, move_id: str) -> None:
        self._path = _path(move_id)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(self._path))
        self._socket.listen(1)
        self._relay: socket.socket | None = None

    def next_link(self, name: str, timeout: float | None) -> Link:
        """Wait for a new connection; LinkLost where none came within ``timeout`` seconds."""
        self._leave_relay()
        self._socket.settimeout(timeout)
        while True:
            try:
                self._relay, _ = self._socket.accept()
            except TimeoutError as error:
                raise LinkLost(f"{name} did not come back within {timeout:g} s") from error
            self._relay.settimeout(timeout)
            greeting, descriptors, _, _ = socket.recv_fds(self._relay, len(_GREETING), 2)
            if greeting == _GREETING and len(descriptors) == 2:
                return Link(descriptors[0], descriptors[1], name=name)
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Stop listening, and let the last peer that came go."""
        self._leave_relay()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _leave_relay(self) -> None:
        if self._relay is not None:
            self._relay.close()
            self._relay = None


def relay(move_id: str, link: Link) -> None:
    """Pass ``link`` to the peer that holds the move; STATUS "unknown" where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as keeper:
        try:
            keeper.connect(str(_path(move_id)))
        except (FileNotFoundError, ConnectionRefusedError):
            last = Journal(move_id).last()
            state = "unknown" if last is None else f"abandoned after {last.state}"
            link.send(FrameType.STATUS, to_wire(Status(state)))
            return
        descriptors = link.detach()
        try:
            socket.send_fds(keeper, [_GREETING], descriptors)
        finally:
            for descriptor in set(descriptors):
                os.close(descriptor)
        keeper.recv(1)  # until the other side closes


def _path(move_id: str) -> Path:
    return DIRECTORY / f"{Journal(move_id).move_id}.sock"
