"""What is made of a container's description; no Docker needed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
import urllib3
from docker.errors import APIError, NotFound

from docker_livemig import engine_api
from docker_livemig.containers import ContainerSpec, changed_ways
from docker_livemig.lifecycle import kept_name
from docker_livemig.making import creation, differences
from docker_livemig.uncarried import uncarried
from livemig import wire
from livemig.errors import (
    CreateFailed,
    DiskFull,
    LivemigError,
    NameTaken,
    NoDocker,
    NoSuchContainer,
    RuntimeMissing,
)

SPEC = ContainerSpec(
    id="c0" * 32,
    name="recorder",
    pid=42,
    image_id="sha256:" + "1d" * 32,
    image_ref="recorder:1",
    image_tag="recorder:1",
    image_has_entrypoint=False,
    layers=("sha256:" + "aa" * 32,),
    platform="linux/amd64",
    config={"Hostname": "h", "Cmd": ["/recorder"], "Entrypoint": None, "Image": "recorder:1"},
    host_config={"Memory": 1 << 26, "NetworkMode": "default", "Runtime": "runc", "Links": None},
    restart_policy={"Name": "always", "MaximumRetryCount": 0},
    auto_remove=False,
    upper_dir="/var/lib/docker/overlay2/x/diff",
    mounts=(),
    networks=("bridge",),
    address="172.17.0.2",
    cgroup_parent="",
    apparmor="",
)


def test_it_is_made_again_with_our_runtime_and_without_a_restart_policy() -> None:
    body = creation(SPEC, "recorder:1")
    assert body["HostConfig"]["Runtime"] == "livemig-runc"
    assert body["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert body["HostConfig"]["Memory"] == 1 << 26
    assert (body["Hostname"], body["Image"], body["Entrypoint"]) == ("h", "recorder:1", None)


def test_an_entrypoint_that_was_taken_away_stays_away() -> None:
    spec = replace(SPEC, image_has_entrypoint=True)
    assert creation(spec, "x")["Entrypoint"] == [""]
    kept = replace(spec, config={**SPEC.config, "Entrypoint": ["/e"]})
    assert creation(kept, "x")["Entrypoint"] == ["/e"]


def test_what_docker_leaves_out_is_found_and_ways_to_say_nothing_are_equal() -> None:
    made = creation(SPEC, "x")
    assert differences(SPEC, {"Config": made, "HostConfig": made["HostConfig"]}) == []
    empty = {**made["HostConfig"], "Links": [], "NetworkMode": "bridge"}
    assert differences(SPEC, {"Config": made, "HostConfig": empty}) == []
    lost = {**made["HostConfig"], "Memory": 0}
    found = differences(SPEC, {"Config": made, "HostConfig": lost})
    assert found == ["Memory is 0, not 67108864"]


def test_the_description_crosses_the_wire() -> None:
    assert wire.from_wire(ContainerSpec, wire.to_wire(SPEC)) == SPEC


def test_only_a_policy_that_starts_it_again_is_touched() -> None:
    assert SPEC.keeps_restarting
    assert not replace(SPEC, restart_policy={"Name": "no"}).keeps_restarting
    assert not replace(SPEC, auto_remove=True).keeps_restarting
    assert kept_name(SPEC, "0123456789abcdef") == "recorder-livemig-0123456789ab"


INFO: dict[str, Any] = {"Driver": "overlay2", "SecurityOptions": ["name=seccomp,profile=default"]}


def test_an_ordinary_container_has_nothing_uncarried() -> None:
    assert uncarried(SPEC, INFO) == []
    none = replace(SPEC, host_config={**SPEC.host_config, "NetworkMode": "none"})
    assert uncarried(replace(none, networks=("none",)), INFO) == []
    disabled = {**SPEC.config, "Healthcheck": {"Test": ["NONE"]}}
    assert uncarried(replace(SPEC, config=disabled), INFO) == []


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("NetworkMode", "host", "the host's network (--network host)"),
        ("NetworkMode", "container:ab", "the network of another container (container:ab)"),
        ("NetworkMode", "mine", "network mine"),
        ("Tmpfs", {"/scratch": ""}, "tmpfs mount at /scratch"),
        ("Binds", ["/:/host"], "bind or volume mount at /host"),
        ("Binds", ["data:/data:ro"], "bind or volume mount at /data"),
        ("Mounts", [{"Type": "bind", "Source": "/", "Target": "/host"}], "bind mount at /host"),
        ("VolumesFrom", ["other"], "the volumes of container other (--volumes-from)"),
        ("Links", ["/db:/recorder/db"], "link /db:/recorder/db (--link)"),
        ("PidMode", "host", "process IDs shared with host (--pid)"),
        ("IpcMode", "container:x", "IPC objects shared with container:x (--ipc)"),
        ("UTSMode", "host", "the name of the host (--uts)"),
        ("UsernsMode", "host", "user namespace of the host (--userns)"),
        ("Privileged", True, "access to all devices (--privileged)"),
        ("Devices", [{"PathOnHost": "/dev/kvm"}], "device /dev/kvm"),
        ("DeviceRequests", [{"Driver": ""}], "devices of driver nvidia (--gpus)"),
        ("DeviceCgroupRules", ["c 1:3 r"], "access to devices 'c 1:3 r' (--device-cgroup-rule)"),
        ("Init", True, "a second process as PID 1 (--init)"),
        ("Runtime", "kata", "the runtime kata"),
    ],
)
def test_what_the_host_configuration_shows_is_named(field: str, value: object, named: str) -> None:
    spec = replace(SPEC, host_config={**SPEC.host_config, field: value})
    assert uncarried(spec, INFO) == [named]


@pytest.mark.parametrize(
    ("mode", "networks", "named"),
    [
        ("default", (), ["no connection to the network bridge, from which it was disconnected"]),
        ("bridge", ("none",), ["no connection to the network bridge, from which it was disconnec"]),
        ("none", ("bridge",), ["the network bridge, to which it was connected"]),
        ("none", (), []),
        ("none", ("none",), []),
        ("bridge", ("bridge",), []),
    ],
)
def test_networks_that_are_not_those_of_the_start_are_named(
    mode: str, networks: tuple[str, ...], named: list[str]
) -> None:
    host = {**SPEC.host_config, "NetworkMode": mode}
    found = uncarried(replace(SPEC, host_config=host, networks=networks), INFO)
    assert len(found) == len(named)
    assert all(text.startswith(words) for text, words in zip(found, named, strict=True))


@pytest.mark.parametrize(
    ("mount", "named"),
    [
        ({"Type": "volume", "Name": "data"}, "volume data at /x"),
        ({"Type": "volume", "Name": "ab" * 32}, "anonymous volume at /x"),
        ({"Type": "bind", "Source": "/srv"}, "bind mount of /srv at /x"),
        ({"Type": "tmpfs"}, "tmpfs mount at /x"),
    ],
)
def test_mounts_are_named(mount: dict[str, str], named: str) -> None:
    spec = replace(SPEC, mounts=({**mount, "Destination": "/x"},))
    assert uncarried(spec, INFO) == [named]


def test_the_rest_is_named_too() -> None:
    spec = replace(
        SPEC,
        networks=("bridge", "mine"),
        upper_dir="",
        config={
            "Tty": True,
            "Healthcheck": {"Test": ["CMD", "true"]},
            "Labels": {"com.docker.swarm.service.name": "web"},
        },
    )
    info = {"Driver": "btrfs", "SecurityOptions": ["name=userns", "name=rootless"]}
    assert uncarried(spec, info) == [
        "network mine",
        "files in the storage driver btrfs (overlay2 is needed)",
        "the place of a task of Swarm service web",
        "remapped user IDs (userns-remap of the daemon)",
        "a rootless engine",
    ]


def answer(reason: str, status: int = 500) -> APIError:
    response = requests.Response()
    response.status_code = status
    kind = NotFound if status == 404 else APIError
    return kind(reason, response=response, explanation=reason)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (answer("No such container: x", 404), NoSuchContainer, "no such container: x"),
        (answer("write /x: no space left on device"), DiskFull, "no space left"),
        (answer("Unknown runtime specified livemig-runc", 400), RuntimeMissing, "not registered"),
        (
            answer("unknown or invalid runtime name: livemig-runc", 400),
            RuntimeMissing,
            "not registered",
        ),
        (
            answer('Conflict. The container name "/x" is already in use by container "y".', 409),
            NameTaken,
            "'x' already",
        ),
        (
            answer("driver failed: Bind for 0.0.0.0:80 failed: port is already allocated"),
            CreateFailed,
            "a published port is in use on .*0.0.0.0:80",
        ),
        (answer("something else"), CreateFailed, "^starting x: something else"),
        (requests.ConnectionError("refused"), NoDocker, "does not answer: refused"),
        (urllib3.exceptions.ProtocolError("broken"), NoDocker, "does not answer: broken"),
    ],
)
def test_dockers_errors_in_our_words(error: Exception, kind: type[LivemigError], said: str) -> None:
    with (
        pytest.raises(kind, match=said) as caught,
        engine_api.translating("starting x", CreateFailed, name="x"),
    ):
        raise error
    assert type(caught.value) is kind


def test_no_engine_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(NoDocker, match=r"/nowhere/docker\.sock on .*: No such file") as caught:
        engine_api.connect()
    assert "install" in caught.value.hint


BOTH = [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32769"}]


@pytest.mark.parametrize(
    ("address", "ports", "changes"),
    [
        ("172.17.0.2", {"80/tcp": BOTH[::-1], "81/udp": None, "9/tcp": BOTH}, []),
        ("172.17.0.3", {"80/tcp": BOTH}, ["address changed from 172.17.0.2 to 172.17.0.3"]),
        (
            "172.17.0.2",
            {"80/tcp": [{"HostIp": "", "HostPort": "40000"}]},
            ["80/tcp was published as 0.0.0.0:32768, [::]:32769, and is now as 0.0.0.0:40000"],
        ),
        ("172.17.0.2", {}, ["as 0.0.0.0:32768, [::]:32769, and is now not"]),
    ],
)
def test_ways_that_changed_are_told(
    address: str, ports: dict[str, object], changes: list[str]
) -> None:
    spec = replace(SPEC, ports={"80/tcp": ("0.0.0.0:32768", "[::]:32769"), "81/udp": ()})
    settings = {"Networks": {"bridge": {"IPAddress": address}}, "Ports": ports}
    engine = SimpleNamespace(inspect_container=lambda _: {"NetworkSettings": settings})
    found = changed_ways(cast("Any", engine), SPEC.id, spec)
    assert len(found) == len(changes)
    assert all(words in text for text, words in zip(found, changes, strict=True))
