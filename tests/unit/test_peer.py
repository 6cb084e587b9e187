"""A peer greets, takes a role, and says what went wrong; as does the one who starts it."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from docker_livemig import cli, far, log, peer
from docker_livemig.exits import EXIT_CODES
from docker_livemig.requests import Hello, MoveRequest
from livemig import errors
from livemig.errors import DiskFull, HostError, HostUnreachable, LivemigError
from livemig.frames import Body, Frame, FrameType
from livemig.link import Link
from livemig.wire import from_wire, to_wire
from tests.unit.leftovers import nothing_left

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)

FAKE = Path(__file__).with_name("fake_peer.py")
GREETING = {"protocol": 1, "version": "0.1.0", "role": "client", "host": "here"}


@dataclass
class Played:
    """The roles that a peer was asked to take, with what they shall do."""

    act: Callable[[Link], None] = lambda _link: None
    requests: list[MoveRequest] = field(default_factory=list)
    firsts: list[Frame] = field(default_factory=list)

    def source(self, request: MoveRequest, link: Link) -> None:
        self.requests.append(request)
        self.act(link)

    def target(self, first: Frame, link: Link) -> None:
        self.firsts.append(first)
        self.act(link)

    def operator(self, first: Frame, link: Link, caller: str) -> None:
        assert caller == "alice"
        self.target(first, link)


@dataclass
class Served:
    """A peer in a thread, and the link to it."""

    link: Link
    played: Played
    thread: threading.Thread
    results: list[int]

    def result(self) -> int:
        self.thread.join(5)
        return self.results[0]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(log, "LOG", tmp_path / "log")
    ours, theirs = (sock.detach() for sock in socket.socketpair())
    played, results = Played(), list[int]()

    def run() -> None:
        with Link(theirs, theirs, name="the other side") as link:
            roles = peer.Roles(played.source, played.target, played.operator)
            results.append(peer.serve(link, roles, caller="alice"))

    thread = threading.Thread(target=run)
    thread.start()
    with Link(ours, ours, name="peer") as link:
        yield Served(link, played, thread, results)
    thread.join(5)


def greet(link: Link, body: Body = None) -> Hello:
    link.send(FrameType.HELLO, GREETING if body is None else body)
    return from_wire(Hello, link.expect(FrameType.HELLO, timeout=5).body)


def outcome(link: Link) -> LivemigError:
    with pytest.raises(LivemigError) as caught:
        link.receive(5)
    return caught.value


def test_hello_carries_the_facts_of_the_machine(served: Served) -> None:
    hello = greet(served.link)
    uname = os.uname()
    assert (hello.protocol, hello.version, hello.role) == (1, "0.1.0", "peer")
    assert (hello.host, hello.kernel, hello.arch) == (uname.nodename, uname.release, uname.machine)
    assert hello.page_size == os.sysconf("SC_PAGESIZE")
    assert hello.cpu_flags == sorted(hello.cpu_flags)
    assert hello.cpu_flags
    assert hello.machine == Path("/etc/machine-id").read_text().strip()


def test_move_is_the_role_of_the_source(served: Served) -> None:
    served.played.act = lambda link: link.send(FrameType.SUMMARY, {})
    greet(served.link)
    request = MoveRequest("web", "b", mode="stop-and-copy", run_ssh_as="root")
    served.link.send(FrameType.MOVE, to_wire(request))
    assert served.link.receive(5).type is FrameType.SUMMARY
    assert served.result() == 0
    # who ssh runs as is not for the wire to say
    assert served.played.requests == [
        MoveRequest("web", "b", mode="stop-and-copy", run_ssh_as="alice")
    ]


@pytest.mark.parametrize(
    "kind",
    [
        *(FrameType.PREPARE, FrameType.RESUME),
        *(FrameType.QUERY, FrameType.RECOVER, FrameType.SETTLE),
    ],
)
def test_the_other_roles(served: Served, kind: FrameType) -> None:
    greet(served.link)
    served.link.send(kind, {"x": 1})
    assert served.result() == 0
    assert [(frame.type, frame.body) for frame in served.played.firsts] == [(kind, {"x": 1})]


def test_another_first_frame_is_refused(served: Served) -> None:
    greet(served.link)
    served.link.send(FrameType.COMMIT)
    error = outcome(served.link)
    assert isinstance(error, errors.ProtocolError)
    assert "client on here began with COMMIT" in error.message
    assert served.result() == EXIT_CODES[errors.ProtocolError]


def test_a_request_that_does_not_fit_is_refused(served: Served) -> None:
    greet(served.link)
    served.link.send(FrameType.MOVE, {"container": "web", "host": "b", "mode": "sideways"})
    error = outcome(served.link)
    assert isinstance(error, errors.ProtocolError)
    assert "$.mode" in error.message
    assert not served.played.requests


def test_another_protocol_is_refused_naming_both(served: Served) -> None:
    served.link.send(FrameType.HELLO, {"protocol": 7, "version": "7.0", "new": "shape"})
    served.link.expect(FrameType.HELLO, timeout=5)
    error = outcome(served.link)
    assert isinstance(error, errors.VersionMismatch)
    assert "protocol 7 (docker-livemig 7.0)" in error.message
    assert "protocol 1 (docker-livemig 0.1.0)" in error.message


def test_errors_of_a_role_cross_the_wire(served: Served) -> None:
    def act(_link: Link) -> None:
        raise DiskFull("disk of b is full", hint="make room")

    served.played.act = act
    greet(served.link)
    served.link.send(FrameType.PREPARE)
    error = outcome(served.link)
    assert isinstance(error, DiskFull)
    assert (error.message, error.hint) == ("disk of b is full", "make room")
    assert served.result() == EXIT_CODES[DiskFull]


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_host_did_is_in_its_log(served: Served, fails: bool) -> None:
    def act(link: Link) -> None:
        if fails:
            raise DiskFull("disk of b is full")
        link.send(FrameType.PREPARED)

    served.played.act = act
    greet(served.link)
    body = {"move_id": "m1", "source": "a", "container": {"name": "web\n"}}
    served.link.send(FrameType.PREPARE, body)
    served.result() if fails else served.link.expect(FrameType.PREPARED, timeout=5)
    served.thread.join(5)
    what = "client on here: PREPARE container='web\\n' source='a' move_id='m1'"
    begun, ended = log.LOG.read_text().splitlines()
    assert begun.endswith(f"] {what}")
    assert ended.endswith(f"] {what}: {'DiskFull: disk of b is full' if fails else 'done'}")


def test_no_line_of_the_log_is_another_hosts(served: Served) -> None:
    def act(_link: Link) -> None:
        raise DiskFull("full\n2026-01-01T00:00:00+0000 [1] all is well\x1b[2J\r2026-01-01 [1] too")

    served.played.act = act
    greet(served.link)
    served.link.send(FrameType.PREPARE, {"move_id": "m1"})
    assert isinstance(outcome(served.link), DiskFull)
    served.thread.join(5)
    lines = log.LOG.read_text().splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == 2
    assert "\x1b" not in log.LOG.read_text()


def test_a_name_that_is_no_text_is_told_and_logged(served: Served) -> None:
    def act(_link: Link) -> None:
        raise errors.NotCarried("/dev/caf\udce9, which was made there")

    served.played.act = act
    greet(served.link)
    served.link.send(FrameType.PREPARE, {"source": "a"})
    assert outcome(served.link).message == "/dev/caf?, which was made there"
    assert served.result() == EXIT_CODES[errors.NotCarried]
    assert r"/dev/caf\udce9" in log.LOG.read_text()


def test_a_defect_is_told_and_logged(served: Served) -> None:
    def act(_link: Link) -> None:
        raise KeyError("oops")

    served.played.act = act
    greet(served.link)
    served.link.send(FrameType.PREPARE)
    error = outcome(served.link)
    assert isinstance(error, errors.InternalError)
    assert "KeyError: 'oops' (test_peer.py:" in error.message
    assert served.result() == EXIT_CODES[errors.InternalError]
    assert "Traceback" in log.LOG.read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_defect(served: Served, number: int) -> None:
    """The journal's, say, which is written before anything is done."""

    def act(_link: Link) -> None:
        raise OSError(number, os.strerror(number), "/var/lib/livemig/m1/journal")

    served.played.act = act
    greet(served.link)
    served.link.send(FrameType.PREPARE)
    error = outcome(served.link)
    assert isinstance(error, DiskFull)
    assert "/var/lib/livemig/m1/journal" in error.message
    assert "Traceback" not in log.LOG.read_text()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ours, theirs = (sock.detach() for sock in socket.socketpair())
    played = Played()
    with Link(theirs, theirs, name="x") as link, Link(ours, ours, name="peer") as other:
        assert peer.serve(link, peer.Roles(played.source, played.target, played.operator)) == 25
        assert isinstance(outcome(other), errors.NotRoot)


def test_a_starter_that_vanishes_is_no_defect(served: Served) -> None:
    greet(served.link)
    served.link.close()
    assert served.result() == EXIT_CODES[errors.LinkLost]
    assert not log.LOG.exists()


def test_the_engine_that_the_client_named_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from docker_livemig import source  # noqa: PLC0415  as the peer does

    monkeypatch.setenv("DOCKER_HOST", "unix:///run/first.sock")
    seen = []
    monkeypatch.setattr(source, "run", lambda *_: seen.append(os.environ["DOCKER_HOST"]))
    ours, theirs = (sock.detach() for sock in socket.socketpair())
    with Link(theirs, theirs, name="x") as link:
        peer._source(MoveRequest("web", "b"), link)
        peer._source(MoveRequest("web", "b", docker_host="unix:///run/second.sock"), link)
    os.close(ours)
    assert seen == ["unix:///run/first.sock", "unix:///run/second.sock"]


def test_who_is_not_root_goes_through_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    class Left(Exception):
        pass

    def execvp(_program: str, argv: list[str]) -> None:
        raise Left(*argv)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "execvp", execvp)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 41 10.0.0.8 22")
    with pytest.raises(Left) as caught:
        peer.main()
    argv = list(caught.value.args)
    assert argv[:3] == ["sudo", "-n", "--"]
    assert argv[3] == sys.executable
    assert argv[-4:-1] == ["peer", "--stdio", "--sudo"]
    # sudo hands on little of the environment, and this is how a source is found again.
    handed: dict[str, object] = {}
    monkeypatch.setattr(peer, "main", lambda **words: handed.update(words) or 0)
    assert cli.main(argv[argv.index("peer") :]) == 0
    assert handed == {"through_sudo": True, "connection": "10.0.0.7 41 10.0.0.8 22"}


def start_fake(*words: str, timeout: float = 10) -> far.FarPeer:
    return far.start([sys.executable, str(FAKE), *words], name="b", role="source", timeout=timeout)


@pytest.mark.parametrize(
    ("words", "expected", "message"),
    [
        (["version"], errors.VersionMismatch, "b speaks protocol 2 (docker-livemig 9.9.9)"),
        (["garbage"], errors.ProtocolError, "Welcome to fake"),
        (["silence"], errors.HostUnreachable, "b: docker-livemig does not answer there"),
        (["bad-hello"], errors.ProtocolError, "Hello"),
        (["refuse", "not-root"], errors.NotRoot, "it is not-root"),
        (["refuse", "no-such-code"], errors.LivemigError, "it is no-such-code"),
        (["exit", "0 "], errors.HostUnreachable, "b closed the link"),
        (["exit", "255 ssh: Could not resolve hostname b"], errors.HostUnknown, "does not resolve"),
        (["exit", "255 Permission denied (publickey)."], errors.HostUnreachable, "Permission"),
        (["exit", "127 sh: 1: docker: not found"], errors.NoDocker, "docker: not found"),
        (["exit", "125 unknown flag: --stdio"], errors.NoPlugin, "not installed"),
        (["exit", "1 sudo: a password is required"], errors.NotRoot, "a password is required"),
        (["exit", "1 Traceback: boom"], errors.HostError, "boom"),
    ],
)
def test_a_peer_that_misbehaves_is_diagnosed(
    words: list[str], expected: type[LivemigError], message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(LivemigError) as caught:
        start_fake(*words, timeout=1 if words == ["silence"] else 10)
    assert type(caught.value) is expected
    assert message in caught.value.message
    assert time.monotonic() - started < 8


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(errors.HostUnreachable, match="b: cannot run /no/such/ssh: No such file"):
        far.start(["/no/such/ssh"], name="b", role="source")


def test_a_peer_that_vanishes_later_is_a_lost_link() -> None:
    other = start_fake("vanish")
    assert other.hello.host == "fake"
    assert os.getsid(other.process.pid) == other.process.pid  # no Ctrl-C reaches it
    other.link.send(FrameType.PREPARE)
    with pytest.raises(errors.LinkLost, match="b closed the link"):
        other.link.receive(5)
    other.close()
    assert other.process.returncode == 0


def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> Path:
    """Put a program called ssh on PATH that notes its arguments and becomes the fake peer."""
    script = tmp_path / "bin" / "ssh"
    script.parent.mkdir()
    log = tmp_path / "argv"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {log}\nexec {sys.executable} {FAKE} {words}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return log


def test_connect_far_goes_by_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_ssh(tmp_path, monkeypatch, "vanish")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for request in (
        MoveRequest("web", "b", destination="ssh://root@far:2222"),
        MoveRequest("web", "root@far"),
    ):
        other = far.connect_far(request.host, request)
        assert other.name == other.link.name == request.host
        other.close()
        argv = log.read_text().splitlines()
        assert argv[-6:] == ["--", "far", "docker", "livemig", "peer", "--stdio"]
        assert argv[argv.index("-l") + 1] == "root"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_real_program_greets_and_leaves_no_stray_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEMIG_LOG", str(tmp_path / "log"))
    other = far.start(far.local_argv(), name="this host", role="client")
    assert other.hello.role == "peer"
    assert other.hello.euid == 0
    assert os.getsid(other.process.pid) == other.process.pid
    streams = [os.readlink(f"/proc/{other.process.pid}/fd/{number}") for number in range(3)]
    assert streams == ["/dev/null", str(tmp_path / "log"), str(tmp_path / "log")]
    other.link.send(FrameType.COMMIT)
    assert isinstance(outcome(other.link), errors.ProtocolError)
    other.close()
    assert other.process.returncode == EXIT_CODES[errors.ProtocolError]


def test_a_user_that_this_host_does_not_know_is_named() -> None:
    """As at a boot, when a directory service is not up yet: no reason for the operator's word."""
    with pytest.raises(HostError, match="is to run as nobody-of-ours") as caught:
        far.start(["ssh"], name="there", role="peer", user="nobody-of-ours")
    assert not isinstance(caught.value, HostUnreachable)
