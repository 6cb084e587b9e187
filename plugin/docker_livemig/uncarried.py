"""What Docker shows of a container that cannot be carried to another host in this version."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from docker_livemig.engine_api import RUNTIME

if TYPE_CHECKING:
    from docker_livemig.containers import ContainerSpec

_RUNTIMES = ("", "runc", "io.containerd.runc.v2", RUNTIME)
_NETWORKS = ("default", "bridge", "none")
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_SERVICE = "com.docker.swarm.service.name"


def uncarried(spec: ContainerSpec, info: dict[str, Any]) -> list[str]:
    """Return a description of each object that cannot be carried, in words that users know.

    ``info`` is what `docker info` says on the host that asks: the source, or the target, which
    does not rely on the source's having asked.
    """
    host = spec.host_config
    return [
        *_mounts(spec),
        *_networks(spec),
        *_namespaces(host),
        *_devices(host),
        *_processes(spec),
        *_engine(spec, info),
    ]


def _mounts(spec: ContainerSpec) -> Iterator[str]:
    seen = set()
    for mount in spec.mounts:
        place = mount.get("Destination", "?")
        seen.add(place)
        if mount.get("Type") == "bind":
            yield f"bind mount of {mount.get('Source')} at {place}"
        elif mount.get("Type") == "volume" and _ANONYMOUS.fullmatch(mount.get("Name", "")):
            yield f"anonymous volume at {place}"
        elif mount.get("Type") == "volume":
            yield f"volume {mount.get('Name')} at {place}"
        else:
            yield f"{mount.get('Type')} mount at {place}"
    for kind, place in _asked_for(spec.host_config):
        if place not in seen:
            yield f"{kind} mount at {place}"
    for other in spec.host_config.get("VolumesFrom") or []:
        yield f"the volumes of container {other} (--volumes-from)"


def _asked_for(host: dict[str, Any]) -> list[tuple[str, str]]:
    """Return kind and place of each mount that the configuration asks for."""
    return [
        *(("bind or volume", [*each.split(":"), "?"][1]) for each in host.get("Binds") or []),
        *((each.get("Type", "?"), each.get("Target", "?")) for each in host.get("Mounts") or []),
        *(("tmpfs", place) for place in host.get("Tmpfs") or {}),
    ]


def _networks(spec: ContainerSpec) -> Iterator[str]:
    mode = spec.host_config.get("NetworkMode") or "default"
    if mode == "host":
        yield "the host's network (--network host)"
    elif mode.startswith("container:"):
        yield f"the network of another container ({mode})"
    for network in sorted(set(spec.networks) | {mode}):
        if network not in (*_NETWORKS, "host") and not network.startswith("container:"):
            yield f"network {network}"
    yield from _connections(mode, spec.networks)
    for link in spec.host_config.get("Links") or []:
        yield f"link {link} (--link)"


def _connections(mode: str, networks: tuple[str, ...]) -> Iterator[str]:
    """Yield what `docker network` has changed: the target's Docker goes by ``mode`` alone."""
    if mode in ("default", "bridge") and "bridge" not in networks:
        yield "no connection to the network bridge, from which it was disconnected"
    elif mode == "none" and "bridge" in networks:
        yield "the network bridge, to which it was connected (it was started with --network none)"


def _namespaces(host: dict[str, Any]) -> Iterator[str]:
    if host.get("PidMode"):
        yield f"process IDs shared with {host['PidMode']} (--pid)"
    if (ipc := host.get("IpcMode") or "").startswith(("host", "container:")):
        yield f"IPC objects shared with {ipc} (--ipc)"
    if host.get("UTSMode"):
        yield f"the name of the {host['UTSMode']} (--uts)"
    if host.get("UsernsMode"):
        yield f"user namespace of the {host['UsernsMode']} (--userns)"


def _devices(host: dict[str, Any]) -> Iterator[str]:
    if host.get("Privileged"):
        yield "access to all devices (--privileged)"
    for device in host.get("Devices") or []:
        yield f"device {device.get('PathOnHost')}"
    for request in host.get("DeviceRequests") or []:
        yield f"devices of driver {request.get('Driver') or 'nvidia'} (--gpus)"
    for rule in host.get("DeviceCgroupRules") or []:
        yield f"access to devices '{rule}' (--device-cgroup-rule)"


def _processes(spec: ContainerSpec) -> Iterator[str]:
    if spec.host_config.get("Init"):
        yield "a second process as PID 1 (--init)"


def _engine(spec: ContainerSpec, info: dict[str, Any]) -> Iterator[str]:
    if not spec.upper_dir:
        yield f"files in the storage driver {info.get('Driver')} (overlay2 is needed)"
    if (runtime := spec.host_config.get("Runtime") or "") not in _RUNTIMES:
        yield f"the runtime {runtime}"
    if service := (spec.config.get("Labels") or {}).get(_SERVICE):
        yield f"the place of a task of Swarm service {service}"
    yield from _other_users(info)


def unfit(info: dict[str, Any]) -> list[str]:
    """Return what keeps the engine that `docker info` tells of from taking a container in."""
    found = list(_other_users(info))
    if (driver := info.get("Driver")) != "overlay2":
        found.append(f"the storage driver {driver} (overlay2 is needed)")
    return found


def _other_users(info: dict[str, Any]) -> Iterator[str]:
    for option in info.get("SecurityOptions") or []:
        if option.startswith("name=userns"):
            yield "remapped user IDs (userns-remap of the daemon)"
        elif option.startswith("name=rootless"):
            yield "a rootless engine"
