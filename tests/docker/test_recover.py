"""`docker livemig status` and `recover`: what both sides know, and the operator's word."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from docker_livemig.exits import EXIT_CODES
from livemig.errors import Contradicted, InDoubt, LivemigError, NoSuchMove, UnderWay
from tests.conftest import NothingLeft
from tests.docker.commands import Command
from tests.docker.killers import (
    IMPATIENT,
    LIMIT,
    PEER,
    Scene,
    Stop,
    await_peers,
    drop_packets,
    stoppable,
)
from tests.docker.moves import Pair, inspect, processes, set_up
from tests.hosts import Host
from tests.typist import Typist

pytestmark = [pytest.mark.docker, pytest.mark.timeout(200)]

NAME = "doubtful"
OF_COMMAND = 3
"""Threads of a peer that are there for its command: both of the link, and who watches it."""


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    set_up(hosts)
    nothing_left.ignore("images")
    policy = ["--restart", "always"]
    with stoppable(hosts):
        hosts[0].run(["docker", "run", "-d", "-i", "--name", NAME, *policy, recorder_image])
        yield hosts
        for host in hosts:
            host.run(["docker", "rm", "-f", NAME], check=False)


def status(host: Host, *words: str) -> list[dict[str, Any]]:
    result = host.run(["docker", "livemig", "status", "--format", "json", *words])
    found: list[dict[str, Any]] = json.loads(result.stdout)["moves"]
    return found


def recover(host: Host, *words: str) -> str:
    """Recover, and return the result of the only move."""
    argv = ["docker", "livemig", "recover", "--format", "json", *words]
    result = host.run(argv, env=IMPATIENT)
    (outcome,) = json.loads(result.stdout)["outcomes"]
    return str(outcome["result"])


def refused(host: Host, error: type[LivemigError], *words: str) -> str:
    argv = ["docker", "livemig", "recover", *words]
    result = host.run(argv, env=IMPATIENT, check=False)
    assert result.returncode == EXIT_CODES[error], result.stderr
    return result.stderr


def break_off(pair: Pair, point: str, *options: str) -> None:
    """Kill the command and both peers at a step."""
    with Stop(pair, point) as stop, Command(pair[0], *options, NAME, pair[1].name) as command:
        stop.await_stop()
        scene = Scene(pair, command)
        scene.kill_command()
        scene.kill_peer(0)
        scene.kill_peer(1)
        command.end()
    await_peers(pair)


@contextmanager
def no_link(pair: Pair) -> Iterator[None]:
    """Have no packet pass between the hosts for a while."""
    mend = drop_packets(pair)
    try:
        yield
    finally:
        mend()


def journal(host: Host) -> str:
    """Return the ID of the only move that a host knows."""
    (known,) = host.path("/var/lib/livemig").glob("*/journal")
    return known.parent.name


def running(pair: Pair) -> list[str]:
    return [
        host.name
        for host in pair
        if host.run(["docker", "ps", "-aq", "--filter", f"name={NAME}"]).stdout
    ]


def test_both_sides_are_shown_and_agree(pair: Pair) -> None:
    source, target = pair
    with Typist(pair, NAME) as typist:
        typist.wait_for(20)
        break_off(pair, "source >committed")
        (here,), (there,) = status(source), status(target)
        assert (here["role"], here["state"], here["copy"]) == ("source", "committed", "frozen")
        assert (there["role"], there["state"], there["copy"]) == ("target", "ready", "frozen")
        assert (here["there"], there["there"]) == ("ready, frozen", "committed, frozen")
        assert (here["other"], there["other"]) == (target.name, source.name)
        assert here["id"] == there["id"]
        assert status(source, target.name) == [there]
        table = target.run(["docker", "livemig", "status"]).stdout.splitlines()
        assert table[1].split()[:5] == [here["id"][:12], "target", NAME, "ready", "frozen"]
        # Docker's user cannot make a second copy of it.
        assert target.run(["docker", "unpause", NAME], check=False).returncode
        assert status(target)[0]["copy"] == "frozen"
        assert target.run(["docker", "restart", "-t", "0", NAME], check=False).returncode
        assert inspect(target, NAME)["State"]["Status"] == "exited"
        assert target.run(["docker", "start", NAME], check=False).returncode
        # The copy has ended before it ran: it is the source's that is the last.
        assert recover(source) == "runs-here"
        typist.wait_for(20)
        typist.verify()
    assert status(source) == status(target) == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_committed_move_is_completed_from_either_host(pair: Pair, side: str) -> None:
    source, target = pair
    asked, result = (source, "runs-there") if side == "source" else (target, "runs-here")
    with Typist(pair, NAME) as typist:
        typist.wait_for(20)
        break_off(pair, "source >committed")
        (known,) = status(source)
        refusal = refused(asked, Contradicted, known["id"][:8], "--abort")
        assert "would make two copies" in refusal
        assert recover(asked, known["id"]) == result
        assert status(source) == status(target) == []
        typist.wait_for(20)
        typist.verify()
        assert typist.host is target


def test_what_was_handed_over_is_not_moved_again(pair: Pair) -> None:
    """Docker says that it runs; it is frozen, and the copy of it there may run."""
    source, target = pair
    with Typist(pair, NAME, limit=200) as typist:
        typist.wait_for(20)
        break_off(pair, "source >committed")
        refused(target, Contradicted, journal(target), "--abort")
        for mode in ("live", "stop-and-copy"):
            argv = ["docker", "livemig", "--mode", mode, NAME, target.name]
            refusal = source.run(argv, check=False)
            assert refusal.returncode == EXIT_CODES[InDoubt], refusal.stderr
            assert journal(source) in refusal.stderr
            assert status(source)[0]["copy"] == "frozen"
        assert recover(source) == "runs-there"
        typist.wait_for(20)
        typist.verify()
    assert status(source) == status(target) == []


def test_a_source_that_is_kept_is_ended_twice(pair: Pair) -> None:
    """The first time the target could not be told."""
    source, target = pair
    break_off(pair, "source >committed", "--keep-source")
    with no_link(pair):
        assert recover(source, journal(source), "--commit") == "runs-there"
    assert recover(source) == "runs-there"
    kept = source.run(["docker", "ps", "-a", "--format", "{{.Names}} {{.State}}"]).stdout.split()
    assert (kept[0].startswith(f"{NAME}-livemig-"), kept[1:]) == (True, ["exited"])
    source.run(["docker", "rm", kept[0]])
    assert running(pair) == [target.name]
    assert status(source) == status(target) == []


def test_a_command_that_ends_before_the_commit_leaves_nothing_there(pair: Pair) -> None:
    """All is ready on the target; nobody recovers."""
    source, target = pair
    with Stop(pair, "source commit") as stop, Command(source, NAME, target.name) as command:
        stop.await_stop()
        (peer,) = processes(source, *PEER)
        before = peer.num_threads()
        Scene(pair, command).kill_command()
        deadline = time.monotonic() + LIMIT
        while peer.num_threads() > before - OF_COMMAND:
            assert time.monotonic() < deadline, "it did not see that its command is gone"
            time.sleep(0.02)  # the end of a thread of another process
        stop.release()
        command.end()
    await_peers(pair)
    assert running(pair) == [source.name]
    assert status(source) == status(target) == []


def test_the_operator_decides_where_the_other_host_cannot_be_asked(pair: Pair) -> None:
    source, target = pair
    with Typist(pair, NAME, limit=200) as typist:
        typist.wait_for(20)
        break_off(pair, "source >committed")
        with no_link(pair):
            for host in pair:
                assert "cannot be asked" in refused(host, InDoubt, journal(host))
            assert recover(target, journal(target), "--commit") == "runs-here"
        # Docker's word on the source is still that the frozen one runs: nobody types there.
        assert recover(source) == "runs-there"
        typist.wait_for(20)
        typist.verify()
    assert running(pair) == [target.name]
    assert status(source) == status(target) == []


def test_a_copy_that_the_operator_gave_up_gives_the_container_back(pair: Pair) -> None:
    source, target = pair
    with Typist(pair, NAME, limit=200) as typist:
        typist.wait_for(20)
        break_off(pair, "source >committed")
        with no_link(pair):
            assert recover(target, journal(target), "--abort") == "ended"
        assert running(pair) == [source.name]
        assert recover(source) == "runs-here"
        typist.wait_for(20)
        typist.verify()
    assert inspect(source, NAME)["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert running(pair) == [source.name]
    assert status(source) == status(target) == []


def test_a_move_that_is_under_way_is_left_alone(pair: Pair) -> None:
    source = pair[0]
    with Stop(pair, "source create") as stop, Command(source, NAME, pair[1].name) as command:
        stop.await_stop()
        (known,) = status(source)
        assert known["under_way"]
        refused(source, UnderWay, known["id"])
        refused(source, NoSuchMove, "no-such-move")
        assert (
            json.loads(source.run(["docker", "livemig", "recover", "--format", "json"]).stdout)[
                "outcomes"
            ]
            == []
        )
        stop.release()
        assert command.end()[0] == 0
    assert running(pair) == [pair[1].name]
