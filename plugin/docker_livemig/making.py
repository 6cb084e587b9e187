"""The container that is made again on the target, and held until its process has arrived.

It is made from what `docker inspect` says of the source's, nearly word for word: Docker accepts its
own answer. What must differ is the runtime, and the restart policy until it runs.
"""

from __future__ import annotations

import os
from typing import Any

from docker.errors import NotFound

import docker
from docker_livemig import hold
from docker_livemig.containers import NO_POLICY, ContainerSpec, refuse_shown
from docker_livemig.engine_api import (
    RUNTIME,
    address,
    name_taken,
    require_runtime,
    this_host,
    translating,
)
from docker_livemig.lifecycle import kill, remove_ended
from docker_livemig.uncarried import unfit
from livemig.errors import CreateFailed, NotCarried, ProtocolError
from livemig.model import Credentials

_EMPTY: tuple[Any, ...] = (None, "", 0, -1, [], {}, False, [0, 0])
# What differs on purpose, or is put in other words by other versions of Docker.
_NOT_COMPARED = {
    *("ContainerIDFile", "Runtime", "RestartPolicy", "NetworkMode", "CgroupParent"),
    *("ConsoleSize", "Image", "Entrypoint", "AttachStdin", "AttachStdout", "AttachStderr"),
    *("KernelMemory", "KernelMemoryTCP", "OnBuild", "ArgsEscaped", "Shell", "Links"),
}


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
        refuse_shown(spec, info)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ProtocolError(
            f"the configuration of container {spec.name} is not as Docker writes it: {error}"
        ) from error
    with translating(f"looking for a container named {spec.name}", CreateFailed):
        try:
            found = api.inspect_container(spec.name)
        except NotFound:
            return
    if found["Id"] == spec.id:
        raise this_host(spec.name)
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
            remove_ended(api, made, volumes=True)
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


def refuse_more_rights(container_id: str, spec: ContainerSpec, who: Credentials) -> None:
    """Raise NotCarried where a process has capabilities that Docker does not give its container.

    Nobody is relied on for that: no source gives a process more than this host's Docker would.
    """
    wanted = who.bounding | who.permitted | who.effective | who.inheritable | who.ambient
    if more := wanted & ~hold.rights(container_id):
        raise NotCarried(
            f"container {spec.name} has capabilities ({more:#x}) that Docker on "
            f"{os.uname().nodename} does not give it",
            hint="have both hosts run the same kernel and Docker",
        )


def _image_name(api: docker.APIClient, spec: ContainerSpec) -> str:
    """Return the source's word for the image where it means the same here, else the ID."""
    with translating(f"looking for image {spec.image_ref}", CreateFailed):
        try:
            same = api.inspect_image(spec.image_ref)["Id"] == spec.image_id
        except NotFound:
            same = False
    return spec.image_ref if same else spec.image_id
