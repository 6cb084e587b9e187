"""A peer that was killed leaves a journal; the next one on that host undoes its move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker_livemig.containers import create, describe, remove, start_held
from docker_livemig.engine_api import connect
from docker_livemig.journal import Journal
from docker_livemig.sweep import FREEZING, HELD, owner, sweep
from livemig.freezer import Freezer
from tests.conftest import NothingLeft
from tests.docker.inside import inside
from tests.docker.moves import Pair, inspect, move, set_up
from tests.hosts import Host

pytestmark = pytest.mark.docker

NAME = "swept"
ALWAYS = {"Name": "always", "MaximumRetryCount": 0}
DEAD = [1, 0.0]


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    set_up(hosts)
    nothing_left.ignore("images")
    hosts[0].run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    yield hosts
    for host in hosts:
        host.run(["docker", "rm", "-f", NAME], check=False)


def promise(state: str, container: str, owned_by: list[float]) -> None:
    Journal("0123").append(state, container=container, policy=ALWAYS, owner=owned_by)


def frozen(pid: int) -> bool:
    return Freezer.of_process(pid).frozen()


def freeze(container: str, owned_by: list[float] | None) -> None:
    pid = connect().inspect_container(container)["State"]["Pid"]
    promise(FREEZING, container, owned_by or owner())
    Freezer.of_process(pid).freeze()


def look(container: str) -> tuple[list[str], bool]:
    lines = sweep(connect())
    return lines, frozen(connect().inspect_container(container)["State"]["Pid"])


def test_a_source_that_had_not_committed_runs_on(pair: Pair) -> None:
    container = inspect(pair[0], NAME)["Id"]
    inside(pair[0], freeze, container, DEAD)
    lines, still = inside(pair[0], look, container)
    assert "undid the move 0123" in lines[0]
    assert not still
    assert inspect(pair[0], NAME)["HostConfig"]["RestartPolicy"] == ALWAYS


def sweep_own(container: str) -> tuple[list[str], bool]:
    freeze(container, None)
    found = look(container)
    Freezer.of_process(connect().inspect_container(container)["State"]["Pid"]).thaw()
    Journal("0123").remove()
    return found


def test_a_move_whose_peer_lives_is_left_alone(pair: Pair) -> None:
    assert inside(pair[0], sweep_own, inspect(pair[0], NAME)["Id"]) == ([], True)


def abandon(container: str) -> str:
    """Hold a container as a target's peer does, and leave it as if killed."""
    api = connect()
    spec = describe(api, container)
    remove(api, spec.id)
    made = create(api, spec)
    promise(HELD, made, DEAD)
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
    left = inside(target, abandon, NAME)
    assert ids(target) == [left]
    summary = move(source, NAME, target)
    assert ids(target) == [summary["container_id"]]
