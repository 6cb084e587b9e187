"""Containers with a health check, whose probes come into them at any time."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator

import pytest

from livemig import errors
from tests.attachment import Events
from tests.conftest import NothingLeft
from tests.docker.commands import Command
from tests.docker.killers import Stop, stoppable
from tests.docker.moves import Pair, inspect, move, ready_for, refused
from tests.hosts import Host
from tests.typist import Typist

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

NAME = "healthy"
LIMIT = 30.0
PROBE = "sleep 0.6"
OFTEN = ["--health-cmd", PROBE, "--health-interval", "300ms", "--health-timeout", "5s"]


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    nothing_left.ignore("images")
    with ready_for(hosts, NAME):
        hosts[0].run(["docker", "run", "-d", "-i", "--name", NAME, *OFTEN, recorder_image])
        yield hosts


def await_health(host: Host, status: str) -> None:
    """Return when Docker says so."""
    events = Events(host.socket, NAME)
    try:
        while inspect(host, NAME)["State"]["Health"]["Status"] != status:
            ready, _, _ = select.select([events.fileno()], [], [], LIMIT)
            assert ready, inspect(host, NAME)["State"]["Health"]
            events.drain()
    finally:
        events.close()


def await_probe(host: Host) -> None:
    """Return when the next probe begins."""
    which = ["--filter", "event=exec_start", "--filter", f"container={NAME}"]
    argv = ["docker", "events", *which, "--format", "{{json .}}"]
    process = host.popen(argv, stdout=-1, text=True)
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], LIMIT)[0], "no probe"
        assert PROBE in json.loads(process.stdout.readline())["Action"]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("mode", ["live", "stop-and-copy"])
def test_its_probes_come_and_go(pair: Pair, mode: str) -> None:
    source, target = pair
    with Typist(pair, NAME) as typist:
        for _ in range(2):  # a probe is there for most of the time
            typist.wait_for(20)
            await_health(source, "healthy")
            move(source, NAME, target, "--mode", mode)
            typist.wait_for(20)
            typist.verify()
            source, target = target, source
        await_health(source, "healthy")


def test_a_probe_that_comes_when_it_is_frozen_goes_with_the_copy(pair: Pair) -> None:
    with Typist(pair, NAME) as typist, stoppable(pair):
        typist.wait_for(20)
        with Stop(pair, "source state") as stop, Command(pair[0], NAME, pair[1].name) as command:
            stop.await_stop()
            await_probe(pair[0])
            stop.release()
            assert command.end()[0] == 0
        typist.wait_for(20)
        typist.verify()


def test_whoever_stays_is_not_taken_for_a_probe(pair: Pair) -> None:
    pair[0].run(["docker", "exec", "-d", NAME, "sleep", "1000"])
    refused(pair[0], NAME, pair[1].name, errors.NotCarried, " processes: ", "(sleep)")
