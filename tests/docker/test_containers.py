"""Containers described, made again, removed: with two real engines."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import docker
from docker_livemig import containers, engine_api, hold, lifecycle, making, setup
from docker_livemig.containers import ContainerSpec
from livemig.errors import (
    CreateFailed,
    NameTaken,
    NoSuchContainer,
    NotCarried,
    NotRunning,
    Paused,
    ProtocolError,
    RuntimeMissing,
)
from tests.conftest import NothingLeft
from tests.docker.inside import inside
from tests.hosts import Host, load_images

pytestmark = pytest.mark.docker
Pair = tuple[Host, Host]

MANY_OPTIONS = [
    *("--hostname", "h", "--domainname", "d.example", "--user", "65534:65534", "-i"),
    *("--workdir", "/tmp", "-e", "A=b", "-e", "PATH=/bin", "--label", "x=y", "--expose", "99/udp"),
    *("--ulimit", "nofile=100:200", "--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD"),
    *("--memory", "64m", "--cpus", "0.5", "--cpu-shares", "300", "--pids-limit", "50"),
    *("--sysctl", "net.ipv4.ip_forward=1", "--shm-size", "1m", "--stop-signal", "INT"),
    *("--stop-timeout", "3", "--log-opt", "max-size=1m", "--add-host", "foo:1.2.3.4"),
    *("--dns", "1.1.1.1", "--group-add", "7", "--read-only", "--security-opt", "no-new-privileges"),
    *("--restart", "on-failure:3", "--publish", "8099:99", "--oom-score-adj", "500"),
]


@pytest.fixture(scope="module")
def pair(hosts: Pair, recorder_image: str) -> Iterator[Pair]:
    """Both hosts with the runtime and the image."""
    _, b = hosts
    assert recorder_image
    registered = []
    for host in hosts:
        api = host.api()
        registered.append("livemig-runc" in api.info()["Runtimes"])
        had = [tag for image in api.images() for tag in image["RepoTags"] or []]
        api.close()
        inside(host, setup.run)
    load_images(b)
    yield hosts
    for host, was in zip(hosts, registered, strict=True):
        inside(host, setup.run, undo=not was)
    if recorder_image not in had:
        b.run(["docker", "rmi", recorder_image])


@pytest.fixture(autouse=True)
def _clean(pair: Pair, nothing_left: NothingLeft) -> Iterator[None]:
    yield
    for host in pair:
        for ident in host.run(["docker", "ps", "-aq", "--no-trunc"]).stdout.split():
            inside(host, remove, ident)
    nothing_left.check()


def run(host: Host, image: str, *words: str, name: str = "recorder") -> ContainerSpec:
    host.run(["docker", "run", "-d", "--name", name, *words, image])
    return inside(host, describe, name)


def describe(name: str) -> ContainerSpec:
    return containers.describe(engine_api.connect(), name)


def refuse(spec: ContainerSpec) -> None:
    containers.refuse_uncarried(engine_api.connect(), spec)


def create(spec: ContainerSpec) -> str:
    return making.create(engine_api.connect(), spec)


def start_held(ident: str, spec: ContainerSpec) -> int:
    return making.start_held(engine_api.connect(), ident, spec)


def remove(ident: str) -> None:
    lifecycle.remove(engine_api.connect(), ident)


def inspect(host: Host, name: str) -> dict[str, dict[str, object]]:
    found: list[dict[str, dict[str, object]]]
    found = json.loads(host.run(["docker", "inspect", "--type", "container", name]).stdout)
    return found[0]


def test_it_is_made_again_as_it_was(pair: Pair, recorder_image: str) -> None:
    a, b = pair
    spec = run(a, recorder_image, *MANY_OPTIONS)
    inside(a, refuse, spec)
    assert spec.name == "recorder"
    assert spec.image_tag == recorder_image
    assert spec.address == inspect(a, "recorder")["NetworkSettings"]["IPAddress"]
    ident = inside(b, create, spec)
    inside(b, start_held, ident, spec)
    one, other = inspect(a, "recorder"), inspect(b, "recorder")
    other["HostConfig"]["Runtime"] = one["HostConfig"]["Runtime"]
    assert other["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    other["HostConfig"]["RestartPolicy"] = spec.restart_policy
    for same in ("Config", "HostConfig", "Path", "Args", "Name", "AppArmorProfile", "Image"):
        assert other[same] == one[same]


def test_a_host_name_of_dockers_making_and_a_missing_entrypoint_stay(
    pair: Pair, recorder_image: str
) -> None:
    a, b = pair
    words = ["-d", "-i", "--name", "plain", "--entrypoint", ""]
    a.run(["docker", "run", *words, recorder_image, "cat"])
    spec = inside(a, describe, "plain")
    assert spec.config["Entrypoint"] is None
    assert spec.config["Hostname"] == spec.id[:12]
    inside(b, create, spec)
    made = inspect(b, "plain")["Config"]
    assert (made["Entrypoint"], made["Cmd"]) == (None, ["cat"])
    assert made["Hostname"] == spec.id[:12]


def test_what_docker_shows_and_cannot_be_carried_is_named(pair: Pair, recorder_image: str) -> None:
    a, _ = pair
    a.run(["docker", "network", "create", "mine"])
    words = ["-i", "--network", "mine", "-v", "data:/data", "-v", "/srv:/srv", "--tmpfs", "/t"]
    try:
        spec = run(a, recorder_image, *words, "-v", "/anonymous")
        with pytest.raises(NotCarried, match="container recorder has what cannot") as caught:
            inside(a, refuse, spec)
    finally:
        a.run(["docker", "rm", "-f", "-v", "recorder"])
        a.run(["docker", "network", "rm", "mine"])
        a.run(["docker", "volume", "rm", "data"])
    for named in (
        "network mine",
        "volume data at /data",
        "bind mount of /srv at /srv",
        "tmpfs mount at /t",
        "anonymous volume at /anonymous",
    ):
        assert named in caught.value.message


def test_what_is_not_there_not_running_or_paused(pair: Pair, recorder_image: str) -> None:
    a, _ = pair
    with pytest.raises(NoSuchContainer, match="no such container: recorder"):
        inside(a, describe, "recorder")
    run(a, recorder_image, "-i")
    a.run(["docker", "pause", "recorder"])
    with pytest.raises(Paused, match="recorder is paused"):
        inside(a, describe, "recorder")
    a.run(["docker", "unpause", "recorder"])
    a.run(["docker", "kill", "recorder"])
    with pytest.raises(NotRunning, match=r"recorder is not running \(exited\)"):
        inside(a, describe, "recorder")


def check_target(spec: ContainerSpec) -> None:
    making.check_target(engine_api.connect(), spec)


def test_a_name_that_is_taken(pair: Pair, recorder_image: str) -> None:
    a, b = pair
    spec = run(a, recorder_image, "-i")
    inside(b, check_target, spec)
    b.run(["docker", "create", "--name", "recorder", recorder_image])
    for attempt in (check_target, create):
        with pytest.raises(NameTaken, match="lmb has a container named 'recorder' already"):
            inside(b, attempt, spec)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("Privileged", True, "--privileged"),
        ("Binds", ["/:/host"], "volume mount at /host"),
        ("Binds", [5], "not as Docker writes it"),
    ],
)
def test_what_no_source_sends(
    pair: Pair, recorder_image: str, field: str, value: object, named: str
) -> None:
    """Who may speak to a peer is not given the target's host by that."""
    a, b = pair
    spec = run(a, recorder_image, "-i")
    spec = replace(spec, host_config={**spec.host_config, field: value})
    with pytest.raises((NotCarried, ProtocolError), match=named):
        inside(b, check_target, spec)


def test_a_host_without_the_runtime(pair: Pair, recorder_image: str) -> None:
    a, b = pair
    spec = run(a, recorder_image, "-i")
    inside(b, setup.run, undo=True)
    try:
        for attempt in (check_target, create):
            with pytest.raises(RuntimeMissing, match="not registered with Docker on lmb") as caught:
                inside(b, attempt, spec)
            assert "docker livemig setup" in caught.value.hint
    finally:
        inside(b, setup.run)


def test_a_published_port_in_use(pair: Pair, recorder_image: str) -> None:
    a, b = pair
    spec = run(a, recorder_image, "-i", "-p", "8099:99")
    b.run(["docker", "run", "-d", "-i", "--name", "other", "-p", "8099:99", recorder_image])
    ident = inside(b, create, spec)
    with pytest.raises(CreateFailed, match=r"a published port is in use on lmb: .*8099"):
        inside(b, start_held, ident, spec)
    assert inside(b, hold.registered) == []
    inside(b, remove, ident)


@pytest.mark.parametrize("state", ["created", "held", "paused", "frozen", "running", "exited"])
@pytest.mark.parametrize("auto", [False, True])
def test_removing_whatever_state_it_is_in(
    pair: Pair, recorder_image: str, state: str, auto: bool
) -> None:
    a, b = pair
    spec = run(a, recorder_image, "-i", *(["--rm"] if auto else []))
    assert spec.auto_remove == auto
    ident = inside(b, create, spec)
    if state != "created":
        pid = inside(b, start_held, ident, spec)
    if state in ("paused", "running"):
        b.run(["docker", "pause", "recorder"])
    if state == "running":
        inside(b, hold.running, ident)
        b.run(["docker", "unpause", "recorder"])
    if state == "frozen":
        freeze(b, pid)
    if state == "exited":
        b.run(["docker", "kill", "recorder"])
    inside(b, remove, ident)
    inside(b, remove, ident)
    assert b.run(["docker", "ps", "-aq"]).stdout == ""
    assert inside(b, hold.registered) == []


def freeze(host: Host, inner: int) -> None:
    for line in Path(f"/proc/{host.outer_pid(inner)}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names == "freezer":
            host.path(f"/sys/fs/cgroup/freezer{path}/freezer.state").write_text("FROZEN")
            return
    host.path(f"/sys/fs/cgroup{path}/cgroup.freeze").write_text("1")


def set_policy_no(spec: ContainerSpec) -> None:
    lifecycle.set_policy_no(engine_api.connect(), spec)


def restore_policy(spec: ContainerSpec) -> None:
    lifecycle.restore_policy(engine_api.connect(), spec.id, spec)


def test_the_restart_policy_goes_and_comes_back(pair: Pair, recorder_image: str) -> None:
    a, _ = pair
    spec = run(a, recorder_image, "-i", "--restart", "on-failure:3")
    inside(a, set_policy_no, spec)
    assert inspect(a, "recorder")["HostConfig"]["RestartPolicy"] == {
        "Name": "no",
        "MaximumRetryCount": 0,
    }
    inside(a, restore_policy, spec)
    assert inspect(a, "recorder")["HostConfig"]["RestartPolicy"] == spec.restart_policy
    removed_at_exit = run(a, recorder_image, "-i", "--rm", name="other")
    inside(a, set_policy_no, removed_at_exit)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def remove_source(spec: ContainerSpec, keep: bool) -> None:
    name = lifecycle.kept_name(spec, "0123456789abcdef")
    lifecycle.remove_source(engine_api.connect(), spec, keep=keep, new_name=name)


@pytest.mark.parametrize("auto", [False, True])
def test_the_source_goes(pair: Pair, recorder_image: str, auto: bool) -> None:
    a, _ = pair
    spec = run(a, recorder_image, "-i", *(["--rm"] if auto else []))
    inside(a, kill, spec.pid)
    inside(a, remove_source, spec, keep=False)
    inside(a, remove_source, spec, keep=False)
    assert a.run(["docker", "ps", "-aq"]).stdout == ""


def test_the_source_stays_stopped_under_another_name(pair: Pair, recorder_image: str) -> None:
    a, _ = pair
    spec = run(a, recorder_image, "-i")
    inside(a, kill, spec.pid)
    inside(a, remove_source, spec, keep=True)
    inside(a, remove_source, spec, keep=True)  # by who recovers from a death in between
    kept = inspect(a, "recorder-livemig-0123456789ab")
    assert str(kept["Id"]) == spec.id
    assert kept["State"]["Status"] == "exited"
    assert inspect_names(a) == ["recorder-livemig-0123456789ab"]


def inspect_names(host: Host) -> list[str]:
    return host.run(["docker", "ps", "-a", "--format", "{{.Names}}"]).stdout.split()


def test_a_container_that_docker_would_make_otherwise_is_not_made(
    pair: Pair, recorder_image: str
) -> None:
    a, b = pair
    spec = run(a, recorder_image, "-i")
    newer = replace(spec, host_config={**spec.host_config, "Annotations": {"a": "b"}})
    with pytest.raises(CreateFailed, match=r"Annotations is None, not \{'a': 'b'\}"):
        inside(b, create, newer)
    assert inspect_names(b) == []


def test_an_image_without_its_tag_is_named_by_its_id(pair: Pair, recorder_image: str) -> None:
    a, b = pair
    spec = run(a, recorder_image, "-i")
    untagged = replace(spec, image_ref="elsewhere:1")
    inside(b, create, untagged)
    assert inspect(b, "recorder")["Config"]["Image"] == spec.image_id


def test_the_engine_that_is_asked_is_the_one_of_the_host(pair: Pair) -> None:
    def name() -> str:
        client: docker.APIClient = engine_api.connect()
        return str(client.info()["Name"])

    assert [inside(host, name) for host in pair] == ["lma", "lmb"]
