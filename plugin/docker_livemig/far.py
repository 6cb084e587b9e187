"""Starting a peer and shaking hands with it, on this host or by ssh on another.

Used by the client to reach the source's peer, and by the source's peer to reach the target's.
"""

from __future__ import annotations

import os
import platform
import pwd
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from docker_livemig import hosts
from docker_livemig.requests import Hello, MoveRequest
from docker_livemig.version import PROTOCOL, VERSION
from livemig.errors import (
    HostError,
    HostUnreachable,
    InternalError,
    LinkLost,
    LivemigError,
    ProtocolError,
    VersionMismatch,
)
from livemig.frames import Body, FrameType
from livemig.link import Link
from livemig.spawn import Process, Tail, spawn
from livemig.system import xsave
from livemig.wire import from_wire, to_wire

HELLO_TIMEOUT = 60.0
_MACHINE_ID = Path("/etc/machine-id")
_END_GRACE = 2.0
_PEER = ("peer", "--stdio")


@dataclass(frozen=True)
class FarPeer:
    """A peer that was started from here and has said HELLO: ``hello`` holds its host's facts."""

    name: str
    link: Link
    hello: Hello
    process: Process

    def close(self) -> None:
        """Close the link and end the program that carries it; takes at most a few seconds."""
        self.link.close()
        self.process.end(_END_GRACE)

    def leave(self, patience: float = 0.0) -> None:
        """Close the link, and let the peer come to its own end; wait ``patience`` s for that."""
        self.link.close()
        self.process.wait(patience)
        self.process.close()


def connect_far(host: str, request: MoveRequest) -> FarPeer:
    """Start the peer on ``host``, as the source of ``request``, and exchange HELLO with it.

    Raises a HostError that says what stood in the way.
    """
    if request.destination:
        to = hosts.parse_url(request.destination, name=host)
    else:
        to = hosts.resolve(host)
    return connect_ssh(to, role="source", user=request.run_ssh_as, agent=request.ssh_agent)


def connect_ssh(to: hosts.Destination, *, role: str, user: str = "", agent: str = "") -> FarPeer:
    """Start the peer on ``to`` by ssh, which runs as ``user`` (empty: as this process)."""
    env = dict(os.environ)
    if agent:
        env["SSH_AUTH_SOCK"] = agent
    return start(hosts.ssh_argv(to), name=to.name, role=role, user=user or None, env=env)


def own_argv() -> list[str]:
    """Return the command that starts this very program, to which its arguments are added."""
    return [sys.executable, "-P", "-m", "docker_livemig.main"]


def local_argv() -> list[str]:
    """Return the command that starts the peer of this very program on this host."""
    return [*own_argv(), *_PEER]


def start(
    argv: Sequence[str],
    *,
    name: str,
    role: str,
    user: str | None = None,
    env: dict[str, str] | None = None,
    timeout: float = HELLO_TIMEOUT,
) -> FarPeer:
    """Start ``argv``, which speaks frames on its standard streams, and exchange HELLO with it.

    It gets a session of its own, so that signals of this process's terminal do not reach it.
    """
    tail = Tail()
    there, back = os.pipe(), os.pipe()
    env = dict(os.environ if env is None else env)
    try:
        if user:
            env |= {"HOME": pwd.getpwnam(user).pw_dir, "USER": user, "LOGNAME": user}
        process = spawn(
            argv,
            stdin=there[0],
            stdout=back[1],
            stderr=tail.fd,
            new_session=True,
            env=env,
            cwd="/",
            user=user,
        )
    except (OSError, KeyError) as error:
        os.close(there[1])
        os.close(back[0])
        if isinstance(error, KeyError):
            raise HostError(
                f"{name}: ssh is to run as {user}, and {os.uname().nodename} knows no such user",
                hint="have the user there, or call the command as another one",
            ) from error
        raise HostUnreachable(f"{name}: cannot run {argv[0]}: {error.strerror}") from error
    finally:
        os.close(there[0])
        os.close(back[1])
        tail.release()
    # Logging in and starting a program take their time on a busy machine.
    link = Link(back[0], there[1], name=name, greeting=timeout)
    try:
        hello = _greet(link, role, timeout)
    except LivemigError as error:
        link.close()
        raise _explain(name, error, process, tail) from error
    return FarPeer(name, link, hello, process)


def facts(role: str) -> Hello:
    """Return what this process says of itself and of its machine in HELLO."""
    uname = platform.uname()
    return Hello(
        protocol=PROTOCOL,
        version=VERSION,
        role=role,
        host=uname.node,
        euid=os.geteuid(),
        arch=uname.machine,
        kernel=uname.release,
        page_size=os.sysconf("SC_PAGESIZE"),
        cpu_flags=_cpu_flags(),
        xstate=xsave.components(),
        machine=machine_id(),
    )


def machine_id() -> str:
    """Return this machine's ID (machine-id(5)), empty where it has none."""
    try:
        return _MACHINE_ID.read_text().strip()
    except OSError:
        return ""


def read_hello(name: str, body: Body) -> Hello:
    """Return the HELLO that ``name`` sent.

    Raises VersionMismatch, naming both, where it speaks another protocol.
    """
    theirs = body.get("protocol") if isinstance(body, dict) else None
    if isinstance(theirs, int) and theirs != PROTOCOL:
        raise VersionMismatch(
            f"{name} speaks protocol {theirs} (docker-livemig {body.get('version')}), "
            f"{platform.node()} speaks protocol {PROTOCOL} (docker-livemig {VERSION})",
            hint="install the same version of docker-livemig on both hosts",
        )
    return from_wire(Hello, body)


def _greet(link: Link, role: str, timeout: float) -> Hello:
    link.send(FrameType.HELLO, to_wire(facts(role)))
    return read_hello(link.name, link.expect(FrameType.HELLO, timeout=timeout).body)


def _explain(name: str, error: LivemigError, process: Process, tail: Tail) -> LivemigError:
    """Return the reason why there was no HELLO: the program's own end explains most."""
    if not isinstance(error, (LinkLost, ProtocolError)):
        process.end(_END_GRACE)
        return error
    status = process.wait(_END_GRACE)
    process.end(0)
    text = tail.text()
    if status:
        return hosts.diagnose(name, status, text)
    if isinstance(error, ProtocolError):
        return ProtocolError(
            f"{name}: {error.message}",
            hint=f"nothing else may write there: try `ssh {name} docker livemig version`",
        )
    return HostUnreachable(
        f"{name}: docker-livemig does not answer there: {error.message}",
        hint=f"try `ssh {name} docker livemig version`",
    )


def _cpu_flags() -> list[str]:
    with Path("/proc/cpuinfo").open() as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return sorted(value.split())
    raise InternalError("/proc/cpuinfo lists no CPU flags")
