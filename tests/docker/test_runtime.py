"""A container that is held: what Docker shows of it, what it is, and that it runs once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import APIError

import docker
from docker_livemig import engine_api, hold, lifecycle, making, setup
from livemig.freezer import Freezer
from tests.conftest import NothingLeft
from tests.docker.inside import inside
from tests.hosts import Host

pytestmark = pytest.mark.docker
Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def host(hosts: Pair) -> Iterator[Host]:
    """A host with the runtime."""
    one = hosts[0]
    api = one.api()
    registered = "livemig-runc" in api.info()["Runtimes"]
    api.close()
    inside(one, setup.run)
    yield one
    inside(one, setup.run, undo=not registered)


@pytest.fixture
def api(host: Host) -> Iterator[docker.APIClient]:
    client = host.api()
    yield client
    client.close()


@pytest.fixture
def made(host: Host, recorder_image: str, nothing_left: NothingLeft) -> Iterator[str]:
    """The ID of a container that is not started yet; nothing of it is left after the test."""
    command = ["docker", "create", "--name", "held", "--runtime", "livemig-runc", "-i"]
    words = ["--user", "65534:65534", "--workdir", "/tmp", "--cap-drop", "ALL"]
    ident = host.run([*command, *words, recorder_image, "--heap", "1"]).stdout.strip()
    yield ident
    inside(host, remove, ident)
    nothing_left.check()


def start_held(ident: str) -> int:
    return making.start_held(engine_api.connect(), ident)


def remove(ident: str) -> None:
    lifecycle.remove(engine_api.connect(), ident)


def status(host: Host, inner: int) -> dict[str, str]:
    text = Path(f"/proc/{host.outer_pid(inner)}/status").read_text()
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def test_docker_shows_the_command_and_runs_the_hold_program(
    host: Host, api: docker.APIClient, made: str
) -> None:
    before = api.inspect_container(made)
    pid = inside(host, start_held, made)
    after = api.inspect_container(made)
    assert after["State"]["Status"] == "running"
    for each in (before, after):
        each["HostConfig"].pop("OomKillDisable")  # Docker drops it at a start on cgroup v2
    for same in ("Path", "Args", "Config", "HostConfig"):
        assert after[same] == before[same]
    assert os.readlink(f"/proc/{host.outer_pid(pid)}/exe") == hold.PLACE
    assert api.diff(made) is None
    execs = host.run(["docker", "exec", "held", "id", "-u"]).stdout
    assert execs == "65534\n"
    assert inside(host, hold.state, made) == "held"
    assert inside(host, hold.original, made)["user"]["uid"] == 65534


def test_it_has_the_rights_to_become_anything_and_the_filter_of_the_container(
    host: Host, made: str
) -> None:
    held = status(host, inside(host, start_held, made))
    assert held["Uid"].split() == ["0"] * 4
    assert held["CapEff"] == held["CapBnd"] == status(host, 1)["CapBnd"]
    assert (held["Seccomp"], held["Seccomp_filters"]) == ("2", "1")
    execs = host.run(["docker", "exec", "held", "grep", "Cap", "/proc/self/status"]).stdout
    assert {line.split()[1] for line in execs.splitlines()} == {"0" * 16}


def test_the_mount_leaves_without_a_trace(host: Host, api: docker.APIClient, made: str) -> None:
    pid = inside(host, start_held, made)
    mounts = Path(f"/proc/{host.outer_pid(pid)}/mountinfo")
    assert "livemig-hold" in mounts.read_text()
    inside(host, hold.unmount, pid)
    inside(host, hold.unmount, pid)
    assert "livemig-hold" not in mounts.read_text()
    assert "livemig" not in host.run(["docker", "exec", "held", "ls", "-a", "/dev"]).stdout
    assert api.diff(made) is None


def test_it_is_not_started_again_while_its_state_is_on_the_way(
    host: Host, api: docker.APIClient, made: str
) -> None:
    inside(host, start_held, made)
    api.kill(made, "KILL")
    api.wait(made, timeout=20)
    with pytest.raises(APIError, match="is held for a move to this host that has not ended"):
        api.start(made)
    assert not api.inspect_container(made)["State"]["Running"]
    inside(host, hold.forget, made)
    api.start(made)
    pid = api.inspect_container(made)["State"]["Pid"]
    assert Path(f"/proc/{host.outer_pid(pid)}/comm").read_text() == "recorder\n"


def test_nobody_thaws_it_while_its_state_is_on_the_way(
    host: Host, api: docker.APIClient, made: str
) -> None:
    inside(host, start_held, made)
    api.pause(made)
    with pytest.raises(APIError, match="is held for a move to this host that has not ended"):
        api.unpause(made)
    assert api.inspect_container(made)["State"]["Status"] == "paused"


def test_unpause_thaws_nothing_once_the_application_runs(
    host: Host, api: docker.APIClient, made: str
) -> None:
    pid = inside(host, start_held, made)
    api.pause(made)
    inside(host, hold.running, made)
    freezer = Freezer.of_process(host.outer_pid(pid))
    api.unpause(made)
    assert freezer.frozen()
    assert api.inspect_container(made)["State"]["Status"] == "running"
    assert inside(host, hold.registered) == []
    freezer.thaw()
    api.restart(made, timeout=0)
    pid = api.inspect_container(made)["State"]["Pid"]
    assert Path(f"/proc/{host.outer_pid(pid)}/comm").read_text() == "recorder\n"


def test_a_container_that_is_none_of_ours_is_as_with_runc(
    host: Host, api: docker.APIClient, made: str
) -> None:
    api.start(made)
    for words in (["pause"], ["unpause"], ["restart", "-t", "0"], ["stop", "-t", "0"]):
        host.run(["docker", *words, "held"])
    assert api.inspect_container(made)["State"]["Status"] == "exited"
    assert inside(host, hold.registered) == []


def test_a_missing_hold_program_is_what_docker_reports(
    host: Host, api: docker.APIClient, made: str
) -> None:
    inside(host, hold.pend, made, Path("/nowhere/hold"))
    with pytest.raises(APIError, match="livemig-runc: the hold program /nowhere/hold is missing"):
        api.start(made)
