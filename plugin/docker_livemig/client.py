"""The thin client: starts the source's peer, shows what it reports, and passes on a Ctrl-C.

The peer owns the migration and outlives this process: when the client is lost before the point of
no return, the move is undone; after it, the move is completed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import FrameType as StackFrame
from typing import TypeVar

from docker_livemig import far, hosts
from docker_livemig.progress import Display
from docker_livemig.requests import (
    MoveRequest,
    MoveSummary,
    Outcome,
    Progress,
    Recover,
    Recovered,
)
from docker_livemig.steps import ANSWER
from livemig.errors import Cancelled, LinkLost, LivemigError, NoSuchMove, UsageError
from livemig.frames import FrameType
from livemig.link import Link
from livemig.wire import from_wire, to_wire

_T = TypeVar("_T")
_END = 5.0
_INQUIRY = 6 * ANSWER  # seconds for a host to ask other hosts, and to end what is to be ended
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def carry_out(endpoint: str, request: MoveRequest, display: Display) -> MoveSummary:
    """Have the move done by a peer at the docker endpoint in force; return its summary.

    Waits a moment for the peer to end once it has said its last, so that nothing is left to see;
    it is never ended from here. Where it dies by itself, another one ends the move; one that is
    completed so has a summary without figures.
    """
    peer = start_source(endpoint)
    patience = _END
    seen = Seen()
    try:
        return move(peer, request, display, seen)
    except LinkLost as error:
        if peer.link.dead is not None and seen.move_id:
            display.note("the peer of this move is gone; another one ends it")
            outcome = _end_orphan(endpoint, seen.move_id)
            if outcome.result == "runs-there":
                return _completed(peer.hello.host, request, outcome)
            error.message += f"; {outcome.text}"
        raise
    except LivemigError:
        patience = 0.0 if peer.link.dead is None else _END
        raise
    finally:
        peer.leave(patience)


def _end_orphan(endpoint: str, move_id: str) -> Outcome:
    try:
        (outcome,) = end_moves(endpoint, Recover(move_id)).outcomes
    except NoSuchMove:
        return Outcome(move_id, "", "runs-here", "the container is where it was")
    except LivemigError as error:
        text = f"{error.message} (`docker livemig recover {move_id}`)"
        return Outcome(move_id, "", "in-doubt", text)
    return replace(outcome, text=f"the move was {outcome.text}")


def _completed(source: str, request: MoveRequest, outcome: Outcome) -> MoveSummary:
    return MoveSummary(
        container=outcome.container,
        container_id=outcome.container_id,
        source=source,
        target=request.host,
        mode=request.mode,
        notes=["its peer died after the commit, and another one completed it: no figures are left"],
    )


def end_moves(endpoint: str, request: Recover) -> Recovered:
    """Have the host of an endpoint end the moves that are asked for."""
    around = surroundings(endpoint)
    request = replace(request, docker_host=around["docker_host"], ssh_agent=around["ssh_agent"])
    peer = start_source(endpoint)
    return ask(peer, FrameType.RECOVER, request, FrameType.RECOVERED, Recovered)


def ask(peer: far.FarPeer, kind: FrameType, body: object, answer: FrameType, cls: type[_T]) -> _T:
    """Ask ``peer`` something and return the body of its answer; the peer then ends."""
    try:
        peer.link.send(kind, to_wire(body))
        return from_wire(cls, peer.link.expect(answer, timeout=_INQUIRY).body)
    finally:
        peer.leave(_END)


def surroundings(endpoint: str) -> dict[str, str]:
    """Return what a peer on this host needs to know of the command that started it."""
    local = endpoint.startswith("unix://")
    return {
        "docker_host": endpoint if local else "",
        "ssh_agent": os.environ.get("SSH_AUTH_SOCK", "") if local else "",
    }


def start_source(endpoint: str) -> far.FarPeer:
    """Start the peer on the host of the docker endpoint in force, and greet it.

    Raises UsageError where the endpoint is neither local nor reached by ssh.
    """
    if endpoint.startswith("unix://"):
        return far.start(far.local_argv(), name="this host", role="client")
    if endpoint.startswith("ssh://"):
        to = hosts.parse_url(endpoint, name=endpoint)
        return far.connect_ssh(to, role="client")
    raise UsageError(
        f"the docker endpoint {endpoint!r} is neither local nor reached by ssh",
        hint="use `docker --context` with a local or an ssh:// context, or DOCKER_HOST",
    )


@dataclass
class Seen:
    """What the client has learnt of a move on the way: its ID, once there is a journal."""

    move_id: str = ""


def move(
    peer: far.FarPeer, request: MoveRequest, display: Display, seen: Seen | None = None
) -> MoveSummary:
    """Ask ``peer`` for the move and show its progress; return its summary.

    Raises the error that the move ended with; Cancelled where the user did not wait for the end.
    """
    peer.link.send(FrameType.MOVE, to_wire(request))
    with cancel_on_signals(peer.link, display.note):
        while True:
            frame = peer.link.expect(FrameType.PROGRESS, FrameType.SUMMARY)
            if frame.type is FrameType.SUMMARY:
                return from_wire(MoveSummary, frame.body)
            progress = from_wire(Progress, frame.body)
            if seen is not None:
                seen.move_id = progress.move
            display.update(progress)


@contextlib.contextmanager
def cancel_on_signals(link: Link, note: Callable[[str], None]) -> Iterator[None]:
    """Send CANCEL over ``link`` at the first signal, give up waiting at the second.

    Docker's CLI says that the user has cancelled by closing DOCKER_CLI_PLUGIN_SOCKET as well; that
    never counts as the second signal, for the terminal has told this process already.
    """
    wake, wake_writer = os.pipe()
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    plugin_socket = _plugin_socket()
    os.set_blocking(wake_writer, False)
    canceller = _Canceller(link, note)
    watcher = threading.Thread(
        target=_watch, args=(canceller, wake, stop, plugin_socket), name="signals", daemon=True
    )
    handlers = {number: signal.signal(number, _wake_only) for number in _SIGNALS}
    former = signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.eventfd_write(stop, 1)
        watcher.join()
        for fd in (wake, wake_writer, stop):
            os.close(fd)
        if plugin_socket is not None:
            plugin_socket.close()


def _wake_only(_number: int, _frame: StackFrame | None) -> None:
    """Do nothing: the byte in the wake-up descriptor is what counts."""


class _Canceller:
    """Turns signals, and the end of Docker's CLI, into one CANCEL and then into giving up."""

    def __init__(self, link: Link, note: Callable[[str], None]) -> None:
        self._link = link
        self._note = note
        self._asked = False
        self._excused = False

    def signal(self) -> None:
        """Cancel at the first signal, give up waiting at the second."""
        if not self._asked:
            self._ask()
        elif self._excused:
            self._excused = False
        else:
            self._link.interrupt(
                Cancelled(
                    "gave up waiting; unless it was committed before, the move is undone in the "
                    "background",
                    hint="`docker livemig status` shows what comes of it",
                )
            )

    def hang_up(self) -> None:
        """Cancel; the signal that made Docker's CLI hang up may reach this process later."""
        if not self._asked:
            self._ask()
            self._excused = True

    def _ask(self) -> None:
        self._asked = True
        self._note("cancelling, unless the move is committed already (again to stop waiting)")
        with contextlib.suppress(LivemigError):
            self._link.send(FrameType.CANCEL)


def _watch(canceller: _Canceller, wake: int, stop: int, cli: socket.socket | None) -> None:
    poller = select.poll()
    for fd in (wake, stop, *([cli.fileno()] if cli else [])):
        poller.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if wake in ready:
            for number in os.read(wake, 64):
                if number in _SIGNALS:
                    canceller.signal()
        if cli is not None and cli.fileno() in ready and not _alive(cli):
            poller.unregister(cli.fileno())
            cli = None
            canceller.hang_up()
        if stop in ready:
            return


def _alive(cli: socket.socket) -> bool:
    try:
        return bool(cli.recv(1024))
    except OSError:
        return False


def _plugin_socket() -> socket.socket | None:
    address = os.environ.get("DOCKER_CLI_PLUGIN_SOCKET", "")
    if not address:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
    except OSError:
        connection.close()
        return None
    return connection
