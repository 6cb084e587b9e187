"""A peer that was killed leaves a journal; the next one on that host does what it can decide."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker_livemig.containers import describe
from docker_livemig.engine_api import connect
from docker_livemig.journal import Journal
from docker_livemig.lifecycle import remove, set_policy_no
from docker_livemig.making import create, start_held
from docker_livemig.steps import SourceState, TargetState
from docker_livemig.sweep import sweep
from livemig.freezer import Freezer
from livemig.wire import to_wire
from tests.conftest import NothingLeft
from tests.docker.inside import inside
from tests.docker.moves import Pair, inspect, move, set_up
from tests.hosts import Host

pytestmark = pytest.mark.docker

NAME = "swept"
ALWAYS = {"Name": "always", "MaximumRetryCount": 0}
ID = "0123"


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    set_up(hosts)
    nothing_left.ignore("images")
    run = ["docker", "run", "-d", "-i", "--restart", "always", "--name", NAME]
    hosts[0].run([*run, recorder_image])
    yield hosts
    for host in hosts:
        host.run(["docker", "rm", "-f", NAME], check=False)
        inside(host, forget)


def forget() -> None:
    Journal(ID).remove()


def freeze(state: str) -> None:
    """Freeze the container as a source's peer does, and leave it as if killed."""
    api = connect()
    spec = describe(api, NAME)
    journal = Journal(ID)
    journal.begin(SourceState.BEGUN, spec=to_wire(spec))
    journal.append(state)
    set_policy_no(api, spec)
    Freezer.of_process(spec.pid).freeze()


def look() -> tuple[list[str], bool, str]:
    api = connect()
    lines = sweep(api)
    pid = api.inspect_container(NAME)["State"]["Pid"]
    return lines, Freezer.of_process(pid).frozen(), Journal(ID).state


def test_a_source_that_had_not_committed_runs_on(pair: Pair) -> None:
    inside(pair[0], freeze, SourceState.FREEZING)
    assert inside(pair[0], look) == ([], False, SourceState.RETURNED)
    assert inspect(pair[0], NAME)["HostConfig"]["RestartPolicy"] == ALWAYS


def test_what_runs_on_is_left_to_its_user(pair: Pair) -> None:
    inside(pair[0], freeze, SourceState.FREEZING)
    inside(pair[0], look)
    pair[0].run(["docker", "update", "--restart", "no", NAME])
    inside(pair[0], look)
    assert inspect(pair[0], NAME)["HostConfig"]["RestartPolicy"]["Name"] == "no"


def test_a_source_that_had_committed_stays_frozen(pair: Pair) -> None:
    inside(pair[0], freeze, SourceState.COMMITTED)
    assert inside(pair[0], look) == ([], True, SourceState.COMMITTED)
    assert inspect(pair[0], NAME)["HostConfig"]["RestartPolicy"]["Name"] == "no"


def test_a_move_whose_peer_lives_is_left_alone(pair: Pair) -> None:
    assert inside(pair[0], owned) == ([], True, SourceState.FREEZING)


def owned() -> tuple[list[str], bool, str]:
    freeze(SourceState.FREEZING)  # which leaves this process the owner
    return look()


def abandon() -> str:
    """Hold a container as a target's peer does, and leave it as if killed."""
    api = connect()
    spec = describe(api, NAME)
    remove(api, spec.id)
    journal = Journal(ID)
    journal.begin(TargetState.ACCEPTED, spec=to_wire(spec))
    made = create(api, spec)
    journal.append(TargetState.HELD, container=made)
    start_held(api, made, spec)
    return made


def ids(host: Host) -> list[str]:
    return host.run(["docker", "ps", "-aq", "--no-trunc"]).stdout.split()


def test_what_a_dead_target_held_makes_room_for_the_next_move(
    pair: Pair, recorder_image: str
) -> None:
    source, target = pair
    source.run(["sh", "-c", f"docker save {recorder_image} | ssh {target.name} docker load"])
    target.run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    left = inside(target, abandon)
    assert ids(target) == [left]
    summary = move(source, NAME, target)
    assert ids(target) == [summary["container_id"]]
