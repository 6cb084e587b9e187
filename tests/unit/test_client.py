"""The client shows what its peer reports, and passes on what the user wants."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docker_livemig import client, far, progress
from docker_livemig.progress import Display
from docker_livemig.requests import MoveRequest, MoveSummary, Progress
from livemig import errors
from tests.unit.leftovers import nothing_left

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)

FAKE = Path(__file__).with_name("fake_peer.py")
REQUEST = MoveRequest("web", "b")


class Recorder(Display):
    """Keeps what it is shown, and does something at each progress."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        super().__init__(sys.stderr)
        self.shown: list[Progress] = []
        self.notes: list[str] = []
        self.noted = threading.Event()
        self.act = act

    def update(self, progress: Progress) -> None:
        self.shown.append(progress)
        self.act()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.noted.set()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    monkeypatch.setenv("FAKE_PEER_LOG", str(path))
    monkeypatch.delenv("DOCKER_CLI_PLUGIN_SOCKET", raising=False)
    return path


def lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def kinds(log: Path) -> list[object]:
    """Return the types of the frames that the fake received, but for HELLO and PING."""
    return [line["type"] for line in lines(log) if line.get("type") not in (None, 1, 3)]


def move(*words: str, display: Display | None = None) -> MoveSummary:
    argv = [sys.executable, str(FAKE), *words]
    peer = far.start(argv, name="this host", role="client")
    try:
        return client.move(peer, REQUEST, display or Recorder())
    finally:
        peer.link.close()
        assert peer.process.wait(5) is not None  # it ends by itself: nobody kills it
        peer.leave()


def test_progress_and_summary(log: Path) -> None:
    display = Recorder()
    summary = move("move", display=display)
    assert [(step.phase, step.round, step.pages) for step in display.shown] == [
        ("prepare", 0, 0),
        ("round", 1, 100),
        ("round", 1, 256),
    ]
    assert summary.container_id == "f00dfeed" * 8
    assert summary.rounds[0].bytes == 1 << 20
    asked = next(line for line in lines(log) if line["type"] == 10)
    assert asked["body"] == {
        "container": "web",
        "host": "b",
        "mode": "live",
        "tracker": "auto",
        "layout": "auto",
        "keep_source": False,
        "dry_run": False,
        "downtime_limit_ms": 100,
        "max_rounds": 30,
        "cache_mib": 64,
        "verify": False,
        "timeout_s": 0.0,
        "destination": "",
        "docker_host": "",
        "ssh_agent": "",
        "run_ssh_as": "",
    }


@pytest.mark.usefixtures("log")
def test_errors_of_the_move_are_raised() -> None:
    with pytest.raises(errors.NameTaken, match="it is name-taken") as caught:
        move("move", "name-taken")
    assert caught.value.hint == "do better"


@pytest.mark.usefixtures("log")
def test_a_peer_that_dies_is_a_lost_link() -> None:
    with pytest.raises(errors.LinkLost, match="this host closed the link"):
        move("vanish")


def carry_out(monkeypatch: pytest.MonkeyPatch, *words: str) -> MoveSummary:
    monkeypatch.setattr(far, "local_argv", lambda: [sys.executable, str(FAKE), *words])
    return client.carry_out("unix:///run/docker.sock", REQUEST, Recorder())


def test_a_move_that_another_peer_completes_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To a script it is what any other move is; to people it says that it has no figures."""
    summary = carry_out(monkeypatch, "orphan", "runs-there")
    assert (summary.container, summary.container_id) == ("web", "f00d")
    assert (summary.source, summary.target) == ("fake", REQUEST.host)
    shown = progress.summary_table(summary)
    assert "no figures are left" in shown
    assert "Downtime" not in shown


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("runs-here", "the move was ended$"),
        ("no-such-move", "the container is where it was$"),  # the dead one had undone it
        ("in-doubt", r"it is in-doubt \(`docker livemig recover m1`\)$"),
        ("under-way", r"it is under-way \(`docker livemig recover m1`\)$"),
    ],
)
def test_a_move_that_another_peer_does_not_complete_is_not(
    monkeypatch: pytest.MonkeyPatch, result: str, said: str
) -> None:
    with pytest.raises(errors.LinkLost, match=said):
        carry_out(monkeypatch, "orphan", result)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_once_and_waits_for_the_outcome(log: Path, number: int) -> None:
    display = Recorder(lambda: os.kill(os.getpid(), number))
    with pytest.raises(errors.Cancelled, match="the move of web was cancelled"):
        move("cancel", display=display)
    assert kinds(log) == [10, 13]
    assert len(display.notes) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_ends_the_wait_only(log: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert display.noted.wait(5)
        os.kill(os.getpid(), signal.SIGINT)

    display = Recorder(twice)
    with pytest.raises(errors.Cancelled, match="is undone in the background"):
        move("cancel", "ignore", display=display)
    assert lines(log)[-2:] == [{"cancel": "ignored"}, {"end": True}]
    assert kinds(log) == [10, 13]


@pytest.fixture
def plugin_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[socket.socket]:
    """The socket that Docker's CLI offers to a plugin, on a path or in the abstract namespace."""
    address = str(tmp_path / "cli.sock") if request.param == "path" else f"@cli-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address.replace("@", "\0", 1))
        server.listen()
        monkeypatch.setenv("DOCKER_CLI_PLUGIN_SOCKET", address)
        yield server


@pytest.mark.parametrize("plugin_socket", ["path", "abstract"], indirect=True)
def test_the_end_of_dockers_cli_cancels(log: Path, plugin_socket: socket.socket) -> None:
    def hang_up_and_signal() -> None:
        plugin_socket.accept()[0].close()
        assert display.noted.wait(5)
        os.kill(os.getpid(), signal.SIGINT)  # the same Ctrl-C, not a second one

    display = Recorder(hang_up_and_signal)
    with pytest.raises(errors.Cancelled, match="the move of web was cancelled"):
        move("cancel", display=display)
    assert kinds(log) == [10, 13]


def test_a_killed_client_is_seen_by_the_peer(log: Path) -> None:
    """The peer is in a session of its own: it lives on, sees the end of file, and cleans up."""
    script = (
        "import sys\n"
        "from docker_livemig import client, far\n"
        "from docker_livemig.progress import make\n"
        "from docker_livemig.requests import MoveRequest\n"
        f"peer = far.start({[sys.executable, str(FAKE), 'cancel']!r}, name='x', role='client')\n"
        "client.move(peer, MoveRequest('web', 'b'), make('plain', sys.stdout))\n"
    )
    pid = os.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])
    deadline = time.monotonic() + 10
    while not log.exists() or 10 not in kinds(log):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while lines(log)[-1] != {"end": True}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {"eof": True} in lines(log)


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("endpoint", ["tcp://b:2376", "npipe:////./pipe/docker", "fd://", "b:2375"])
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(errors.UsageError, match="neither local nor reached by ssh"):
        client.start_source(endpoint)
