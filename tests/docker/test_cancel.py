"""Moves that are broken off: the container runs on where it was, and the target is clean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from livemig.errors import Cancelled, LinkLost
from livemig.frames import FrameType
from tests import pace
from tests.conftest import NothingLeft
from tests.docker.commands import Command
from tests.docker.gate import Gate, gate
from tests.docker.killers import Scene, Stop, stoppable
from tests.docker.moves import Pair, facts, kill, processes, set_up, slow_link
from tests.hosts import Host
from tests.typist import Typist

pytestmark = [pytest.mark.docker, pytest.mark.timeout(90)]

NAME = "staying"
RATE = 24e6
"""Bytes a second; the memory of the container takes more than a second, whenever it goes whole."""
WHOLE = ("--cache", "0")  # so is its last round, which would go as deltas to what was sent
MEMORY = ("--heap", "32", "--rewrite", "random", "--per-mille", "300", "--every-ms", "20")


@pytest.fixture(scope="module")
def ready(hosts: Pair, recorder_image: str) -> Iterator[Pair]:
    """Both hosts, with a container in the first that writes much memory."""
    set_up(hosts)
    policy = ["--restart", "always"]
    hosts[0].run(["docker", "run", "-d", "-i", "--name", NAME, *policy, recorder_image, *MEMORY])
    yield hosts
    hosts[0].run(["docker", "rm", "-f", NAME])


@pytest.fixture
def fresh(ready: Pair) -> Pair:
    """Have the container begin with an empty record."""
    ready[0].run(["docker", "restart", "-t", "0", NAME])
    return ready


@pytest.fixture
def pair(fresh: Pair, nothing_left: NothingLeft) -> Iterator[Pair]:
    """Somebody types all the while, and loses nothing; nothing is left on either host."""
    before = facts(fresh[0], NAME)
    with Typist(fresh, NAME) as typist:
        typist.wait_for(20)
        yield fresh
        typist.wait_for(20)
        typist.verify()
        assert typist.moves == 0
    assert facts(fresh[0], NAME) == before
    nothing_left.check()


PHASES = [("connect", 0), ("image", 0), ("create", 0), ("files", 0), ("round", 1), ("freeze", 0)]


@pytest.mark.parametrize(("phase", "number"), PHASES)
def test_ctrl_c(pair: Pair, phase: str, number: int) -> None:
    with slow_link(pair[0], RATE) as env, Command(pair[0], *WHOLE, NAME, "lmb", env=env) as command:
        command.wait_for(phase, number)
        command.interrupt()
        assert "cancelled" in command.must_fail(Cancelled)


@contextmanager
def in_a_round(pair: Pair) -> Iterator[tuple[Gate, Command]]:
    """Yield a move whose first pages are at the gate: no word of it tells of that."""
    with (
        slow_link(pair[0], RATE) as env,
        gate(pair[1], FrameType.PAGES) as held,
        Command(pair[0], *WHOLE, NAME, "lmb", env=env) as command,
    ):
        held.wait()
        yield held, command


def test_ctrl_c_in_the_middle_of_a_round(pair: Pair) -> None:
    with in_a_round(pair) as (held, command):
        command.interrupt()
        held.open()
        command.must_fail(Cancelled)
        assert not [each for each in command.said if each.get("progress", {}).get("round")]


@pytest.mark.parametrize("phase", ["create", "files", "freeze"])
def test_the_command_is_killed(pair: Pair, phase: str) -> None:
    with slow_link(pair[0], RATE) as env, Command(pair[0], *WHOLE, NAME, "lmb", env=env) as command:
        command.wait_for(phase)
        command.kill()
        assert command.end()[0] != 0
    gone(pair[0], "peer", "--stdio")
    gone(pair[1], "peer", "--stdio")


@pytest.mark.parametrize("phase", ["files", "freeze"])
def test_the_peer_on_the_target_is_killed(pair: Pair, phase: str) -> None:
    with slow_link(pair[0], RATE) as env, Command(pair[0], *WHOLE, NAME, "lmb", env=env) as command:
        command.wait_for(phase)
        kill(processes(pair[1], "docker_livemig.main", "peer"))
        command.must_fail(LinkLost)
    pair[1].run(["docker", "livemig", "recover"])


@pytest.mark.parametrize("phase", ["create", "files", "freeze"])
def test_ssh_is_killed(pair: Pair, phase: str) -> None:
    with slow_link(pair[0], RATE) as env, Command(pair[0], *WHOLE, NAME, "lmb", env=env) as command:
        command.wait_for(phase)
        kill(processes(pair[0], "ssh", "peer", "--stdio"))
        command.must_fail(LinkLost)


def test_the_peer_on_the_source_is_killed(pair: Pair) -> None:
    """In the middle of a round: nothing is borrowed from the container then."""
    with in_a_round(pair) as (held, command):
        kill(processes(pair[0], "docker_livemig.main", "peer"))
        held.open()
        command.must_fail(LinkLost)


def gone(host: Host, *words: str) -> None:
    """Wait until no such process is left."""
    _, alive = psutil.wait_procs(processes(host, *words), timeout=pace.limit(20))
    assert not alive


@pytest.fixture
def going(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    """Both hosts, with a container in the first that is to arrive."""
    set_up(hosts)
    nothing_left.ignore("images")
    hosts[0].run(["docker", "run", "-d", "-i", "--name", "going", recorder_image])
    yield hosts
    for host in hosts:
        host.run(["docker", "rm", "-f", "going"], check=False)


@contextmanager
def stopped(going: Pair, point: str) -> Iterator[tuple[Stop, Typist, Command]]:
    """Yield a move that has stopped at a step, with somebody who types."""
    with (
        Stop(going, point) as stop,
        stoppable(going),
        Typist(going, "going") as typist,
        Command(going[0], "going", "lmb") as command,
    ):
        typist.wait_for(20)
        stop.await_stop()
        yield stop, typist, command


def arrives(typist: Typist, command: Command, target: Host) -> None:
    """See that the move is done to its end, and that nothing was lost."""
    code, said = command.end()
    assert code == 0, said
    typist.wait_for(20)
    typist.verify()
    assert typist.host is target


def test_a_peer_that_dies_after_the_commit_has_its_move_completed(going: Pair) -> None:
    """By another one, which the same command starts: the container runs there, so it was done."""
    with stopped(going, "source >committed") as (_, typist, command):
        Scene(going, command).kill_peer(0)
        arrives(typist, command, going[1])


def test_ctrl_c_is_too_late(going: Pair) -> None:
    """After the point of no return the move is completed."""
    with stopped(going, "source finish") as (stop, typist, command):
        command.interrupt()
        stop.release()
        arrives(typist, command, going[1])
