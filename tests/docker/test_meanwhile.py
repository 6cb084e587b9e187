"""Docker's own commands, given to either copy while a move is under way: one copy or none runs."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import pytest

from docker_livemig import engine_api
from docker_livemig.events import Events
from docker_livemig.exits import EXIT_CODES
from livemig import errors
from livemig.errors import LivemigError
from livemig.frames import FrameType
from livemig.system.procfs import read_status
from tests import pace
from tests.conftest import NothingLeft
from tests.docker.commands import Command
from tests.docker.gate import gate
from tests.docker.inside import inside
from tests.docker.killers import Stop, engines, stoppable
from tests.docker.moves import Pair, answers, inspect, move, refused, set_up
from tests.hosts import Host

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

NAME = "busy"
OTHER = "renamed"
MORE = "--memory 300m --memory-swap 300m"

# The frame at which everything is held up, for each phase of a move.
PHASES = {
    "connect": FrameType.PREPARE,
    "image": FrameType.IMAGE,
    "create": FrameType.CREATE,
    "files": FrameType.ROOTFS,
    "rounds": FrameType.ROUND_END,
    "freeze": FrameType.FREEZE,
    "state": FrameType.STATE,
    "ready": FrameType.READY,
}


@dataclass(frozen=True)
class Case:
    """A command, and what comes of it where it breaks the move off.

    ``left`` is what `docker ps` says of the container where it was, None where it is gone.
    """

    command: str
    error: type[LivemigError]
    words: tuple[str, ...]
    left: str | None


CASES = {
    "stop": Case("stop -t 1 {}", errors.NotRunning, ("told to end",), "exited"),
    "kill": Case("kill {}", errors.NotRunning, ("told to end",), "exited"),
    "rm": Case("rm -f {}", errors.NotRunning, ("told to end",), None),
    "restart": Case("restart -t 1 {}", errors.NotRunning, ("told to end",), "running"),
    "pause": Case("pause {}", errors.Paused, ("was paused",), "paused"),
    "update": Case(f"update {MORE} {{}}", errors.NotCarried, ("update", "Memory"), "running"),
    "rename": Case(f"rename {{}} {OTHER}", errors.NotCarried, ("renamed", OTHER), "running"),
    "cp": Case("cp /etc/hostname {}:/tmp/", errors.StateMismatch, ("docker cp",), "running"),
}
# A frozen container cannot be paused, by Docker's own word; nor can anything be done to a file that
# is not read yet that would not be carried.
EARLY_ONLY, LATE_ONLY = ("pause",), ("cp",)
LATE = ("state", "ready")
SHORT = [
    ("connect", "rename"),
    ("create", "stop"),
    ("files", "restart"),
    ("rounds", "pause"),
    ("rounds", "kill"),
    ("freeze", "update"),
    ("ready", "rm"),
    ("ready", "stop"),
    ("ready", "cp"),
]
LONG = [
    (phase, what)
    for phase in PHASES
    for what in CASES
    if (phase, what) not in SHORT
    and not (what in EARLY_ONLY and phase in LATE)
    and not (what in LATE_ONLY and phase not in LATE)
]


def cases(short: list[tuple[str, str]], long: list[tuple[str, str]]) -> list[Any]:
    """Return what `make test` runs, and after it what `make test-long` adds."""
    marked = [pytest.param(*each, marks=pytest.mark.long) for each in long]
    return [pytest.param(*each) for each in short] + marked


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    """Both hosts, with a container in the first that has recorded a number."""
    set_up(hosts)
    nothing_left.ignore("images")
    start(hosts[0], recorder_image, "--restart", "unless-stopped")
    yield hosts
    for host in hosts:
        host.run(["docker", "rm", "-f", NAME, OTHER], check=False)
    nothing_left.check()


def start(host: Host, image: str, *options: str) -> None:
    host.run(["docker", "run", "-d", "-i", "--name", NAME, *options, image])
    assert answers(host, NAME, "5") == "ok 1 5 1"


def docker(host: Host, command: str, name: str = NAME, *, check: bool = True) -> str:
    """Give a command; return what it says."""
    done = host.run(["docker", *shlex.split(command.format(name))], check=check)
    return done.stdout + done.stderr


def state(host: Host, name: str = NAME) -> str | None:
    """Return what `docker ps` says of a container, None where there is none."""
    found = host.run(["docker", "inspect", "-f", "{{.State.Status}}", name], check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def policy(host: Host, name: str = NAME) -> str:
    return str(inspect(host, name)["HostConfig"]["RestartPolicy"]["Name"])


# The source


def must_arrive(pair: Pair, command: Command) -> None:
    """Wait for the end of a move that goes through, and see that its copy runs alone."""
    code, said = command.end()
    assert code == 0, said
    assert (state(pair[0]), state(pair[1])) == (None, "running")
    assert answers(pair[1], NAME, "6") == "ok 2 6 2"


@pytest.mark.parametrize(("phase", "what"), cases(SHORT, LONG))
def test_a_command_to_the_source(pair: Pair, phase: str, what: str) -> None:
    """It does what it does without a move, which is broken off and says why."""
    source, target = pair
    case = CASES[what]
    with gate(target, PHASES[phase]) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        docker(source, case.command)
        held.open()
        message = command.must_fail(case.error)
    for word in (NAME, *case.words):
        assert word in message
    name = OTHER if what == "rename" else NAME
    assert (state(source, name), state(target, name)) == (case.left, None)
    if case.left is None:
        return
    assert policy(source, name) == "unless-stopped", message
    if what == "pause":
        docker(source, "unpause {}")
    if case.left in ("running", "paused"):
        count = 1 if what == "restart" else 2
        assert answers(source, name, "6").split()[:2] == ["ok", str(count)]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_an_engine_that_was_restarted_is_heard_again(
    pair: Pair, nothing_left: NothingLeft, how: signal.Signals
) -> None:
    """With live-restore the container runs on meanwhile, and so does the move."""
    source, target = pair
    nothing_left.ignore("processes")  # the engine is another one
    with (
        engines(pair, live_restore=True),
        gate(target, FrameType.ROUND_END) as held,
        Command(source, NAME, "lmb") as command,
    ):
        held.wait()
        source.stop_engine(how)
        source.start_engine()
        docker(source, CASES["update"].command)
        held.open()
        message = command.must_fail(errors.NotCarried)
    assert "was changed by `docker update` (Memory" in message
    assert (state(source), state(target)) == ("running", None)
    assert policy(source) == "unless-stopped"
    assert answers(source, NAME, "6") == "ok 2 6 2"


@pytest.mark.parametrize(
    ("what", "code"), [("stop", 12), pytest.param("kill", 12, marks=pytest.mark.long)]
)
def test_it_is_told_to_end_when_it_has_left(pair: Pair, what: str, code: int) -> None:
    """The container ends where it is now."""
    source, target = pair
    with gate(target, FrameType.COMMIT) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        docker(source, CASES[what].command)
        held.open()
        found, said = command.end()
    assert found == code == EXIT_CODES[errors.NotRunning], said
    assert "moved to lmb, and stopped there" in said[-1]["error"]["message"]
    assert (state(source), state(target)) == (None, "exited")
    assert policy(target) == "unless-stopped"


def test_it_is_restarted_when_it_has_left(pair: Pair) -> None:
    """It begins anew where it is now; what Docker starts on the source does not stay."""
    source, target = pair
    with gate(target, FrameType.COMMIT) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        docker(source, CASES["restart"].command)
        held.open()
        found, said = command.end()
    assert found == 0, said
    assert (state(source), state(target)) == (None, "running")
    assert answers(target, NAME, "6") == "ok 1 6 1"


def test_it_is_restarted_just_when_it_has_left(pair: Pair) -> None:
    """Docker waits for its end, and would start it in the moment in which it is to be removed."""
    source, target = pair
    container = inspect(source, NAME)
    pid = source.outer_pid(container["State"]["Pid"])
    with (
        Stop(pair, "source finish") as stop,
        stoppable(pair),
        Command(source, NAME, "lmb") as command,
    ):
        stop.await_stop()
        with source.popen(["docker", "restart", "-t", "60", container["Id"]]):
            deadline = time.monotonic() + pace.limit(20)
            while not int(read_status(pid)["ShdPnd"], 16) >> signal.SIGTERM - 1 & 1:
                assert time.monotonic() < deadline, "Docker did not tell it to end"
                time.sleep(0.01)  # a signal of another process
            stop.release()
            code, said = command.end()
    assert code == 0, said
    assert (state(source), state(target)) == (None, "running")
    assert answers(target, NAME, "6") == "ok 1 6 1"


def test_an_engine_that_ends_when_it_has_left_is_no_operator(
    pair: Pair, recorder_image: str, nothing_left: NothingLeft
) -> None:
    """It stops its containers, as `docker stop` does; where the container is now it runs on."""
    source, target = pair
    nothing_left.ignore("processes")  # the engine is another one
    docker(source, "rm -f {}")
    start(source, recorder_image, "--restart", "unless-stopped", "--stop-timeout", "1")
    with (
        engines(pair, live_restore=False),
        gate(target, FrameType.COMMIT) as held,
        Command(source, NAME, "lmb") as command,
    ):
        held.wait()
        source.stop_engine(signal.SIGTERM)
        source.start_engine()
        held.open()
        found, said = command.end()
    assert found == 0, said
    assert (state(source), state(target)) == (None, "running")
    assert policy(target) == "unless-stopped"
    assert answers(target, NAME, "6") == "ok 2 6 2"


@pytest.mark.parametrize("how", ["exits", pytest.param("memory", marks=pytest.mark.long)])
def test_it_ends_by_itself(pair: Pair, recorder_image: str, how: str) -> None:
    """Docker on the source does with it what its policy says, and says so."""
    source, target = pair
    docker(source, "rm -f {}")
    grow = ["--memory", "32m", "--memory-swap", "32m", "--entrypoint", "awk"]
    script = "{ print; while ($0 != 5) s = s s $0 }"
    source.run(["docker", "run", "-d", "-i", "--name", NAME, *grow, recorder_image, script])
    assert answers(source, NAME, "5") == "5"
    with gate(target, FrameType.ROUND_END) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        if how == "exits":
            pid = source.outer_pid(inspect(source, NAME)["State"]["Pid"])
            os.kill(pid, signal.SIGKILL)
        else:
            answers(source, NAME, "6")
        source.run(["docker", "wait", NAME], timeout=30)
        held.open()
        message = command.must_fail(errors.ProcessGone)
    assert ("out of memory" if how == "memory" else "exit code 137") in message
    assert (state(source), state(target)) == ("exited", None)


# Commands that do no harm, and a second move


def test_a_second_move_and_a_short_visit(pair: Pair) -> None:
    """One move of a container at a time, by whatever name; it goes on undisturbed."""
    source, target = pair
    with gate(target, FrameType.ROUND_END) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        ident = inspect(source, NAME)["Id"]
        refused(source, NAME, "lmb", errors.UnderWay, NAME, "is being moved")
        refused(source, ident[:12], "elsewhere", errors.UnderWay, NAME, "is being moved")
        refused(target, NAME, "lma", errors.UnderWay, NAME, "is being moved to this host")
        docker(source, "exec {} touch /tmp/visited")
        docker(source, "cp /etc/hostname {}:/tmp/copied")
        docker(source, "kill -s USR1 {}")
        held.open()
        code, said = command.end()
    assert code == 0, said
    assert (state(source), state(target)) == (None, "running")
    assert docker(target, "exec {} ls /tmp").split() == ["copied", "visited"]
    assert answers(target, NAME, "6") == "ok 2 6 2"


def test_a_visitor_who_stays(pair: Pair) -> None:
    """The process of a `docker exec` is a second one: the move is refused, both run on."""
    source, target = pair
    with gate(target, FrameType.CREATE) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        docker(source, "exec -d {} sleep 300")
        held.open()
        message = command.must_fail(errors.NotCarried)
    assert "sleep" in message
    assert "came into the container" in message
    assert (state(source), state(target)) == ("running", None)
    assert len(docker(source, "top {}").splitlines()) == 3


def test_a_visitor_to_a_frozen_container(pair: Pair) -> None:
    source, target = pair
    with gate(target, FrameType.READY) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        assert "paused container" in docker(source, "exec {} touch /tmp/visited", check=False)
        assert "not running" in docker(source, "pause {}", check=False)
        held.open()
        must_arrive(pair, command)


# Restart policies


POLICIES = [
    "always",
    pytest.param("unless-stopped", marks=pytest.mark.long),
    pytest.param("on-failure:3", marks=pytest.mark.long),
]


@pytest.mark.parametrize("wanted", POLICIES)
def test_restart_policies(pair: Pair, wanted: str) -> None:
    """Neither copy has one while both are there; a move that is undone gives it back."""
    source, target = pair
    name = wanted.partition(":")[0]
    docker(source, f"update --restart {wanted} {{}}")
    before = inspect(source, NAME)["HostConfig"]["RestartPolicy"]
    with gate(target, FrameType.READY) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        assert (policy(source), policy(target)) == ("no", "no")
        docker(source, "cp /etc/hostname {}:/tmp/")
        held.open()
        command.must_fail(errors.StateMismatch)
    assert inspect(source, NAME)["HostConfig"]["RestartPolicy"] == before
    move(source, NAME, target)
    assert inspect(target, NAME)["HostConfig"]["RestartPolicy"] == before
    assert state(source) is None
    os.kill(target.outer_pid(inspect(target, NAME)["State"]["Pid"]), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not (inspect(target, NAME)["RestartCount"] and state(target) == "running"):
        assert time.monotonic() < deadline, f"{name} did not start it again"
        time.sleep(0.1)
    assert answers(target, NAME, "6") == "ok 1 6 1"


@pytest.mark.parametrize(
    ("how", "left"), [("by itself", "running"), ("by Docker", "exited")], ids=["itself", "docker"]
)
def test_it_ends_before_it_has_its_policy_again(pair: Pair, how: str, left: str) -> None:
    """It runs there already, but Docker does not know yet that it is to be kept running."""
    source, target = pair
    docker(source, "update --restart always {}")
    with (
        stoppable(pair),
        Stop(pair, "target finish") as stop,
        Command(source, NAME, "lmb") as command,
    ):
        stop.await_stop()
        assert policy(target) == "no"
        if how == "by Docker":
            docker(target, "kill {}")
        else:
            pid = target.outer_pid(inspect(target, NAME)["State"]["Pid"])
            os.kill(pid, signal.SIGKILL)
        target.run(["docker", "wait", NAME], timeout=30)
        stop.release()
        found, said = command.end()
    assert found == 0, said
    assert (state(source), state(target), policy(target)) == (None, left, "always")


# The target


HELD = {
    "stop": Case("stop -t 1 {}", errors.TargetError, ("told to end there",), None),
    "kill": Case("kill {}", errors.TargetError, ("told to end there",), None),
    "rm": Case("rm -f {}", errors.TargetError, ("told to end there",), None),
    "restart": Case("restart -t 1 {}", errors.TargetError, ("told to end there",), None),
    "update": Case(f"update {MORE} {{}}", errors.TargetError, ("changed there",), None),
    "rename": Case(f"rename {{}} {OTHER}", errors.TargetError, ("renamed there",), None),
}
HELD_SHORT = [("rounds", "stop"), ("files", "rm")]
HELD_LONG = [
    (phase, what)
    for phase in ("files", "rounds", "freeze", "state")
    for what in HELD
    if (phase, what) not in HELD_SHORT
]


@pytest.mark.parametrize(("phase", "what"), cases(HELD_SHORT, HELD_LONG))
def test_a_command_to_the_held_copy(pair: Pair, phase: str, what: str) -> None:
    """It is not complete: it goes, and the source runs on."""
    source, target = pair
    case = HELD[what]
    with gate(target, PHASES[phase]) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        docker(target, case.command, check=False)
        held.open()
        message = command.must_fail(case.error)
    for word in (NAME, "lmb", *case.words):
        assert word in message
    assert (state(source), state(target), state(target, OTHER)) == ("running", None, None)
    assert answers(source, NAME, "6") == "ok 2 6 2"


def test_the_held_copy_cannot_be_let_go(pair: Pair) -> None:
    """Complete, and not committed: neither unpause nor exec makes it run."""
    source, target = pair
    with gate(target, FrameType.READY) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        assert "held for a move" in docker(target, "unpause {}", check=False)
        assert "paused" in docker(target, "exec {} true", check=False)
        assert "already paused" in docker(target, "pause {}", check=False)
        assert inspect(target, NAME)["State"]["Paused"]
        held.open()
        must_arrive(pair, command)


LOST = [
    "rm",
    pytest.param("kill", marks=pytest.mark.long),
    pytest.param("stop", marks=pytest.mark.long),
]


@pytest.mark.parametrize("what", LOST)
def test_the_complete_copy_is_ended(pair: Pair, what: str) -> None:
    """It was never run: the source's runs on, committed or not."""
    source, target = pair
    with gate(target, FrameType.READY) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        docker(target, HELD[what].command)
        held.open()
        message = command.must_fail(errors.TargetError)
    assert "lmb" in message
    assert (state(source), state(target)) == ("running", None)
    assert answers(source, NAME, "6") == "ok 2 6 2"


def hear_again(name: str) -> str:
    """Signal a container before and after a time; return what is heard first from then on."""
    api = engine_api.connect()
    heard: SimpleQueue[str] = SimpleQueue()
    api.kill(name, "USR1")
    container = api.inspect_container(name)["Id"]

    def hear(_: str, attributes: dict[str, str]) -> None:
        heard.put(attributes.get("signal", ""))

    events = Events(engine_api.connect(), container, time.time_ns(), hear, lambda: None)
    try:
        api.kill(name, "USR2")
        return heard.get(timeout=pace.limit(10))
    finally:
        events.close()


def test_the_engine_leaves_out_what_was_before(pair: Pair) -> None:
    found = inside(pair[0], hear_again, NAME)
    assert found == str(int(signal.SIGUSR2))
