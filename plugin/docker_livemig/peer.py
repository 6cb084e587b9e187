"""``docker livemig peer --stdio``: the program that moves containers, as root, on either host.

It speaks frames on its standard streams, greets, and takes the role that the first frame asks for.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from docker_livemig import log
from docker_livemig.exits import SUCCESS, exit_code
from docker_livemig.far import HELLO_TIMEOUT, facts, local_argv, read_hello
from docker_livemig.requests import MoveRequest, Query, Recover
from livemig.errors import DiskFull, LivemigError, NotRoot, ProtocolError, readable
from livemig.frames import Frame, FrameType
from livemig.link import Link
from livemig.wire import from_wire, to_wire

_SWITCH_INTERVAL = 0.0005
_LAST_WORDS = 5.0
_NAMED = 100  # characters of what the other side calls itself


@dataclass(frozen=True)
class Roles:
    """What a peer can become: ``source`` for MOVE; ``target`` for PREPARE and RESUME.

    ``operator`` answers QUERY, RECOVER and SETTLE; it gets the user that ssh runs as, too.
    """

    source: Callable[[MoveRequest, Link], None]
    target: Callable[[Frame, Link], None]
    operator: Callable[[Frame, Link, str], None]


def main(*, through_sudo: bool = False, connection: str = "") -> int:
    """Be a peer on the standard streams; return the exit code.

    A user who is not root is left for root by ``sudo -n``, which starts this program again with
    ``through_sudo``; ssh to the target then runs as that user. ``connection`` is what sudo takes
    out of the environment: SSH_CONNECTION.
    """
    if connection:
        os.environ["SSH_CONNECTION"] = connection
    if os.geteuid() != 0 and not through_sudo:
        _become_root()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # Before any thread is there: what waits for a tracee must be the one that hears of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    rfd, wfd = _take_stdio()
    _detach()
    caller = os.environ.get("SUDO_USER", "") if through_sudo else ""
    with Link(rfd, wfd, name="the other side") as link:
        return serve(link, Roles(_source, _target, _operator), caller=caller)


def serve(link: Link, roles: Roles, *, caller: str = "") -> int:
    """Greet, take the role that is asked for, and turn what goes wrong into an ERROR frame."""
    try:
        if os.geteuid() != 0:
            raise NotRoot(f"{os.uname().nodename}: the peer does not run as root")
        link.send(FrameType.HELLO, to_wire(facts("peer")))
        hello = read_hello(link.name, link.expect(FrameType.HELLO, timeout=HELLO_TIMEOUT).body)
        link.name = readable(f"{hello.role[:_NAMED]} on {hello.host[:_NAMED]}").replace("\n", "?")
        first = link.receive()
        with (
            log.noted(f"{link.name}: {about}")
            if (about := _about(first))
            else contextlib.nullcontext()
        ):
            _dispatch(first, link, roles, caller)
        link.flush(_LAST_WORDS)
    except LivemigError as error:
        return _give_up(link, error)
    except Exception as error:  # noqa: BLE001  the one handler at the top
        return _give_up(link, _no_room(error) or log.defect(error))
    return SUCCESS


def _about(first: Frame) -> str:
    """Say in a line for the log what begins; empty for what changes nothing."""
    body = dict(first.body) if isinstance(first.body, dict) else {}
    if isinstance(spec := body.get("container"), dict):
        body["container"] = spec.get("name", "")
    named = {
        FrameType.MOVE: ("container", "host"),
        FrameType.PREPARE: ("container", "source", "move_id"),
        FrameType.RESUME: ("move_id",),
        FrameType.RECOVER: ("move_id", "force"),
        FrameType.SETTLE: ("move_id", "force"),
    }.get(first.type, ())
    words = [f"{name}={str(body[name])[:80]!r}" for name in named if body.get(name)]
    return " ".join([first.type.name, *words]) if named else ""


def _dispatch(first: Frame, link: Link, roles: Roles, caller: str) -> None:
    if first.type is FrameType.MOVE:
        request = from_wire(MoveRequest, first.body)
        roles.source(replace(request, run_ssh_as=caller), link)
    elif first.type in (FrameType.PREPARE, FrameType.RESUME):
        roles.target(first, link)
    elif first.type in (FrameType.QUERY, FrameType.RECOVER, FrameType.SETTLE):
        roles.operator(first, link, caller)
    else:
        raise ProtocolError(f"{link.name} began with {first.type.name}")


def _give_up(link: Link, error: LivemigError) -> int:
    with contextlib.suppress(LivemigError):
        link.send(FrameType.ERROR, error.to_wire())
        link.flush(_LAST_WORDS)
    return exit_code(error)


def _no_room(error: Exception) -> LivemigError | None:
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return DiskFull(
        f"there is no room on {os.uname().nodename}: {error}",
        hint="make room where /var/lib/livemig is, and move again",
    )


def _become_root() -> None:
    connection = f"--connection={os.environ.get('SSH_CONNECTION', '')}"
    argv = ["sudo", "-n", "--", *local_argv(), "--sudo", connection]
    with contextlib.suppress(FileNotFoundError):
        os.execvp(argv[0], argv)


def _take_stdio() -> tuple[int, int]:
    """Return the standard streams as the link's, and put the log in their place.

    So a stray print, of this program or of one that it starts, cannot end up among the frames, and
    cannot fail when the connection is gone.
    """
    rfd, wfd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        out = os.open(log.LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError:
        out = os.dup(null)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)
    return rfd, wfd


def _detach() -> None:
    """Leave the caller's session, so that the end of its terminal or of ssh is only an event."""
    with contextlib.suppress(PermissionError):  # it leads a session of its own already
        os.setsid()
    for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _source(request: MoveRequest, client: Link) -> None:
    from docker_livemig import source  # noqa: PLC0415  heavy: greet first

    _keep_what_is_there()
    _use_engine(request.docker_host)
    source.run(request, client)


def _target(first: Frame, link: Link) -> None:
    from docker_livemig import target  # noqa: PLC0415  heavy: greet first

    _keep_what_is_there()
    target.run(first, link)


def _keep_what_is_there() -> None:
    """Take what was imported out of the garbage collector's sight.

    A full collection takes 20 ms with it, and comes when it likes: while the application stands
    still, for one.
    """
    gc.freeze()


def _operator(first: Frame, link: Link, caller: str) -> None:
    from docker_livemig import messages, recover, status  # noqa: PLC0415  heavy: greet first

    if first.type is FrameType.SETTLE:
        recover.decide_for_target(from_wire(messages.Settle, first.body), link)
    elif first.type is FrameType.QUERY:
        query = from_wire(Query, first.body)
        _use_engine(query.docker_host)
        status.report(replace(query, run_ssh_as=caller), link)
    else:
        request = from_wire(Recover, first.body)
        _use_engine(request.docker_host)
        recover.recover(replace(request, run_ssh_as=caller), link)


def _use_engine(address: str) -> None:
    if address:
        os.environ["DOCKER_HOST"] = address
