"""Containers as Docker sees them: described on the source, made again on the target, removed.

A container is made again from what `docker inspect` says of it, nearly word for word: Docker
accepts its own answer. What must differ is the runtime, and the restart policy until it runs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import requests
from docker.errors import APIError, NotFound

import docker
from docker_livemig import hold
from docker_livemig.engine_api import (
    RUNTIME,
    address,
    name_taken,
    require_runtime,
    translating,
)
from docker_livemig.images import tag_of
from docker_livemig.uncarried import uncarried, unfit
from livemig.errors import (
    CreateFailed,
    InternalError,
    NotCarried,
    NotRunning,
    Paused,
    ProcessGone,
    ProtocolError,
    TransferError,
    UnderWay,
)

REMOVE_LIMIT = 30.0
"""Seconds that a container has to go."""

_CONFLICT = 409
_GOING, _LEAVING = "marked for removal", ("removing", "dead")
_ENDING_LIMIT, _PAUSE = 10.0, 0.05
NO_POLICY = {"Name": "no", "MaximumRetryCount": 0}
_EMPTY: tuple[Any, ...] = (None, "", 0, -1, [], {}, False, [0, 0])
# What differs on purpose, or is put in other words by other versions of Docker.
_NOT_COMPARED = {
    *("ContainerIDFile", "Runtime", "RestartPolicy", "NetworkMode", "CgroupParent"),
    *("ConsoleSize", "Image", "Entrypoint", "AttachStdin", "AttachStdout", "AttachStderr"),
    *("KernelMemory", "KernelMemoryTCP", "OnBuild", "ArgsEscaped", "Shell", "Links"),
}


@dataclass(frozen=True)
class ContainerSpec:
    """A container: what it takes to make it again, and where its parts are on the source.

    ``address`` is the one on the default bridge, ``addresses`` are all that it has, IPv6 too, each
    with the length of its network's prefix (172.17.0.2/16). ``ports`` are published ones, with the
    places where each is reached. ``directory`` is where Docker keeps the files that it writes for
    the container.
    """

    id: str
    name: str
    pid: int
    image_id: str
    image_ref: str
    image_tag: str
    image_has_entrypoint: bool
    layers: tuple[str, ...]
    platform: str
    config: dict[str, Any]
    host_config: dict[str, Any]
    restart_policy: dict[str, Any]
    auto_remove: bool
    upper_dir: str
    mounts: tuple[dict[str, Any], ...]
    networks: tuple[str, ...]
    address: str
    cgroup_parent: str
    apparmor: str
    addresses: tuple[str, ...] = ()
    ports: dict[str, tuple[str, ...]] = field(default_factory=dict)
    directory: str = ""

    @property
    def keeps_restarting(self) -> bool:
        """Whether Docker starts it again by itself."""
        return not self.auto_remove and self.restart_policy.get("Name") not in (None, "", "no")


# Source


def describe(api: docker.APIClient, name: str) -> ContainerSpec:
    """Return the running container of that name or ID; NoSuchContainer, NotRunning or Paused."""
    with translating(f"looking at container {name}", TransferError, name=name):
        found = api.inspect_container(name)
        _require_running(found)
        image = api.inspect_image(found["Image"])
    host = found["HostConfig"]
    return ContainerSpec(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        pid=found["State"]["Pid"],
        image_id=found["Image"],
        image_ref=found["Config"]["Image"],
        image_tag=tag_of(found["Config"]["Image"], image.get("RepoTags") or []),
        image_has_entrypoint=bool((image.get("Config") or {}).get("Entrypoint")),
        layers=tuple(image["RootFS"].get("Layers") or ()),
        platform=f"{image['Os']}/{image['Architecture']}",
        config=found["Config"],
        host_config=host,
        restart_policy=host.get("RestartPolicy") or NO_POLICY,
        auto_remove=bool(host.get("AutoRemove")),
        upper_dir=_upper_dir(found),
        mounts=tuple(found.get("Mounts") or ()),
        networks=tuple(found["NetworkSettings"].get("Networks") or ()),
        address=_address(found),
        cgroup_parent=host.get("CgroupParent") or "",
        apparmor=found.get("AppArmorProfile") or "",
        addresses=_addresses(found),
        ports=_ports(found),
        directory=os.path.dirname(found["HostsPath"]),
    )


def refuse_uncarried(api: docker.APIClient, spec: ContainerSpec) -> None:
    """Raise NotCarried, naming every object that Docker shows and that cannot be carried."""
    with translating("asking Docker about this host", TransferError):
        info = api.info()
    _refuse_uncarried(spec, info)


def _refuse_uncarried(spec: ContainerSpec, info: dict[str, Any]) -> None:
    if found := uncarried(spec, info):
        raise NotCarried(
            f"container {spec.name} has what cannot be carried to another host: "
            + "; ".join(found),
            hint="this version moves containers without these; start it without them to move it",
        )


def set_policy_no(api: docker.APIClient, spec: ContainerSpec) -> None:
    """Keep Docker from starting the container again, durably (15 ms); ProcessGone if it ended."""
    if not spec.keeps_restarting:
        return
    with translating(f"setting the restart policy of {spec.name}", TransferError):
        try:
            api.update_container(spec.id, restart_policy=NO_POLICY)
        except APIError as error:
            if _has_ended(spec.pid):
                raise ProcessGone(f"container {spec.name} ended before it was frozen") from error
            raise


def restore_policy(api: docker.APIClient, container_id: str, spec: ContainerSpec) -> None:
    """Give a container, where it is still there, the restart policy that the source had."""
    if not spec.keeps_restarting:
        return
    deadline = time.monotonic() + _ENDING_LIMIT
    with translating(f"setting the restart policy of {spec.name}", TransferError):
        while (state := _state(api, container_id))["Status"] not in _LEAVING:
            try:
                api.update_container(container_id, restart_policy=spec.restart_policy)
                return
            except APIError as error:
                if _GOING in str(error):
                    return  # removed while we asked
                # The engine updates a container that it takes to run by runc, which cannot where it
                # has ended: until the engine has taken note of that.
                if not _has_ended(state["Pid"]) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)


def kept_name(spec: ContainerSpec, move_id: str) -> str:
    """Return the name that the source's container has when it is kept."""
    return f"{spec.name}-livemig-{move_id[:12]}"


def remove_source(
    api: docker.APIClient, spec: ContainerSpec, *, keep: bool = False, new_name: str = ""
) -> None:
    """Remove the source's container, whose processes were killed, or keep it under a new name.

    Waits for Docker to notice their end. One that Docker removes by itself may be gone already.
    """
    with translating(f"waiting for the end of {spec.name}", TransferError):
        try:
            api.wait(spec.id, timeout=REMOVE_LIMIT, condition="not-running")
        except NotFound:
            return
        except requests.ReadTimeout as error:
            raise InternalError(
                f"Docker did not notice in {REMOVE_LIMIT:g} s that {spec.name} ended",
                hint=f"`docker rm -f {spec.id[:12]}` removes what was moved away",
            ) from error
    if keep:
        with translating(f"renaming {spec.name}", TransferError):
            if api.inspect_container(spec.id)["Name"] != f"/{new_name}":  # as it may be by now
                api.rename(spec.id, new_name)
    else:
        _remove(api, spec.id, volumes=False)


# Target


def check_target(api: docker.APIClient, spec: ContainerSpec) -> None:
    """Raise RuntimeMissing, NameTaken or CreateFailed when it cannot be made on this host.

    NotCarried or ProtocolError where it is what no source sends, such as one with all privileges.
    """
    require_runtime(api)
    with translating("asking Docker for its settings", CreateFailed):
        info = api.info()
    if found := unfit(info):
        raise CreateFailed(
            f"Docker on {os.uname().nodename} has {' and '.join(found)}",
            hint="move the container to a host whose Docker has overlay2, and users as they are",
        )
    try:
        _refuse_uncarried(spec, info)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ProtocolError(
            f"the configuration of container {spec.name} is not as Docker writes it: {error}"
        ) from error
    with translating(f"looking for a container named {spec.name}", CreateFailed):
        try:
            found = api.inspect_container(spec.name)
        except NotFound:
            return
    if found["Name"].lstrip("/") == spec.name:
        raise name_taken(spec.name)


def create(api: docker.APIClient, spec: ContainerSpec) -> str:
    """Make the container on this host, its image being here; return its ID.

    It has the runtime livemig-runc and no restart policy. NameTaken, RuntimeMissing, or
    CreateFailed, also when Docker would make it in another way than asked.
    """
    require_runtime(api)
    body = creation(spec, _image_name(api, spec))
    with translating(f"creating container {spec.name}", CreateFailed):
        made = api.create_container_from_config(body, spec.name)["Id"]
        try:
            different = differences(spec, api.inspect_container(made))
            if different:
                raise CreateFailed(
                    f"Docker on {os.uname().nodename} made container {spec.name} in another way "
                    f"than asked: {'; '.join(different)}",
                    hint="does this host's kernel and Docker support what the container uses?",
                )
        except BaseException:
            _remove(api, made, volumes=True)
            raise
    return str(made)


def creation(spec: ContainerSpec, image: str) -> dict[str, Any]:
    """Return the request that makes the container again from ``image``."""
    host = {
        **spec.host_config,
        "Runtime": RUNTIME,
        "RestartPolicy": NO_POLICY,
        "ContainerIDFile": "",
    }
    config = {**spec.config, "Image": image}
    if not config.get("Entrypoint") and spec.image_has_entrypoint:
        config["Entrypoint"] = [""]  # none: Docker would take the image's
    return {**config, "HostConfig": host, "NetworkingConfig": {}}


def differences(spec: ContainerSpec, made: dict[str, Any]) -> list[str]:
    """Return what Docker made other than asked, field by field."""
    found = []
    for wanted, got in (
        (spec.config, made["Config"]),
        (spec.host_config, made["HostConfig"]),
    ):
        for key, value in wanted.items():
            other = got.get(key)
            same = value == other or (value in _EMPTY and other in _EMPTY)
            if key not in _NOT_COMPARED and not same:
                found.append(f"{key} is {other!r}, not {value!r}")
    return found


def start_held(api: docker.APIClient, container_id: str, spec: ContainerSpec | None = None) -> int:
    """Start the container with the hold program in place of its command; return its PID.

    CreateFailed when Docker cannot start it (a published port in use, say), when it is not held,
    or not confined by the AppArmor profile of ``spec``. The caller removes it then.
    """
    name = spec.name if spec else container_id[:12]
    hold.pend(container_id, engine=address())
    try:
        with translating(f"starting container {name}", CreateFailed):
            api.start(container_id)
            found = api.inspect_container(container_id)
        if hold.state(container_id) != "held":
            raise CreateFailed(
                f"container {name} was started by Docker, but not held by {RUNTIME}",
                hint="run `docker livemig setup` again on this host",
            )
        profile = found.get("AppArmorProfile") or ""
        if spec and profile != spec.apparmor:
            raise CreateFailed(
                f"container {name} is confined by the AppArmor profile {spec.apparmor!r} on the "
                f"source and by {profile!r} on {os.uname().nodename}"
            )
    except BaseException:
        kill(api, container_id)
        hold.forget(container_id)
        raise
    return int(found["State"]["Pid"])


def pass_on(api: docker.APIClient, container_id: str, *, stop: bool, restart: bool) -> None:
    """Do what `docker stop` or `docker restart` does; the container may be gone."""
    with translating(f"stopping container {container_id[:12]}", TransferError), suppress(NotFound):
        if restart:
            api.restart(container_id)
        elif stop:
            api.stop(container_id)


def changed_ways(api: docker.APIClient, container_id: str, spec: ContainerSpec) -> list[str]:
    """Return, in words for users, which ways to reach the container are not those of ``spec``.

    These are its address on the default bridge, and published ports whose number Docker chose.
    """
    with translating(f"looking at container {container_id[:12]}", TransferError):
        found = api.inspect_container(container_id)
    address, ports = _address(found), _ports(found)
    changes = [f"the container's address changed from {spec.address} to {address}"]
    return changes * (address != spec.address) + [
        f"port {port} was published as {', '.join(before)}, and is now "
        + (f"as {', '.join(ports[port])}" if ports.get(port) else "not")
        for port, before in spec.ports.items()
        if before and ports.get(port) != before
    ]


def remove(
    api: docker.APIClient, container_id: str, thaw: Callable[[], None] | None = None
) -> None:
    """Remove a container of this host in whatever state it is, its hold too; may be called again.

    ``thaw`` is called once its processes are killed, for one that was frozen behind Docker's back.
    """
    kill(api, container_id)
    if thaw:
        thaw()
    _remove(api, container_id, volumes=True)
    hold.forget(container_id)


# Details


def _require_running(found: dict[str, Any]) -> None:
    name, state = found["Name"].lstrip("/"), found["State"]
    if hold.state(found["Id"]) is not None:
        raise UnderWay(
            f"container {name} is being moved to this host", hint="wait for the end of that move"
        )
    if state.get("Paused"):
        raise Paused(f"container {name} is paused", hint=f"`docker unpause {name}` first")
    if not state.get("Running") or state.get("Restarting"):
        raise NotRunning(
            f"container {name} is not running ({state.get('Status')})",
            hint=f"`docker start {name}` first",
        )


def _state(api: docker.APIClient, container_id: str) -> dict[str, Any]:
    """Return what the engine says of a container's state; of one that is gone, "dead"."""
    try:
        return dict(api.inspect_container(container_id)["State"])
    except NotFound:
        return {"Status": "dead", "Pid": 0}


def _has_ended(pid: int) -> bool:
    """Tell whether a container's first process is gone; 0: it was, when the engine said so."""
    try:
        return not pid or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _upper_dir(found: dict[str, Any]) -> str:
    graph = found.get("GraphDriver") or {}
    if graph.get("Name") != "overlay2":
        return ""
    return str((graph.get("Data") or {}).get("UpperDir") or "")


def _address(found: dict[str, Any]) -> str:
    networks = found["NetworkSettings"].get("Networks") or {}
    return str(networks.get("bridge", {}).get("IPAddress") or "")


def _addresses(found: dict[str, Any]) -> tuple[str, ...]:
    networks = (found["NetworkSettings"].get("Networks") or {}).values()
    keys = (("IPAddress", "IPPrefixLen"), ("GlobalIPv6Address", "GlobalIPv6PrefixLen"))
    return tuple(
        f"{network[address]}/{network[length]}"
        for network in networks
        for address, length in keys
        if network.get(address)
    )


def _ports(found: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return where each published port is reached: {"80/tcp": ("0.0.0.0:32768", "[::]:32768")}."""
    ports = found["NetworkSettings"].get("Ports") or {}
    return {port: tuple(sorted(map(_place, places or ()))) for port, places in ports.items()}


def _place(binding: dict[str, str]) -> str:
    host = binding.get("HostIp") or "0.0.0.0"
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"


def _image_name(api: docker.APIClient, spec: ContainerSpec) -> str:
    """Return the source's word for the image where it means the same here, else the ID."""
    with translating(f"looking for image {spec.image_ref}", CreateFailed):
        try:
            same = api.inspect_image(spec.image_ref)["Id"] == spec.image_id
        except NotFound:
            same = False
    return spec.image_ref if same else spec.image_id


def kill(api: docker.APIClient, container_id: str) -> None:
    """Send SIGKILL to PID 1 without Docker, which would not for one that it thinks is paused."""
    with translating(f"looking at container {container_id[:12]}", TransferError):
        try:
            pid = int(api.inspect_container(container_id)["State"]["Pid"])
        except NotFound:
            return
    if not pid:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with open(f"/proc/{pid}/cgroup") as groups:
            if container_id in groups.read():  # and not a later process of that number
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        pass
    finally:
        os.close(handle)


def _remove(api: docker.APIClient, container_id: str, *, volumes: bool) -> None:
    deadline = time.monotonic() + REMOVE_LIMIT
    with translating(f"removing container {container_id[:12]}", TransferError):
        while True:
            try:
                api.remove_container(container_id, force=True, v=volumes)
                return
            except NotFound:
                return
            except APIError as error:
                if error.status_code != _CONFLICT or time.monotonic() > deadline:
                    raise
            # Somebody else removes it: Docker does, where --rm was given.
            try:
                api.wait(container_id, timeout=REMOVE_LIMIT, condition="removed")
            except NotFound:
                return
