"""Containers as Docker sees them: what is known of one, from its description on the source on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import docker
from docker_livemig import hold
from docker_livemig.engine_api import translating
from docker_livemig.images import tag_of
from docker_livemig.uncarried import uncarried
from livemig.errors import NotCarried, NotRunning, Paused, TransferError, UnderWay

NO_POLICY = {"Name": "no", "MaximumRetryCount": 0}


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
    refuse_shown(spec, info)


def refuse_shown(spec: ContainerSpec, info: dict[str, Any]) -> None:
    """Raise NotCarried as above; ``info`` is what Docker says of its host (docker info)."""
    if found := uncarried(spec, info):
        raise NotCarried(
            f"container {spec.name} has what cannot be carried to another host: "
            + "; ".join(found),
            hint="this version moves containers without these; start it without them to move it",
        )


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
