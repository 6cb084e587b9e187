"""What is done to a container that may end, be removed or be started at that very moment.

Docker hears of an end later than the kernel, and does what it is asked in steps of which each can
fail where it has not heard yet. So an error counts only once what it is about is looked at again.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

import psutil
from docker.errors import APIError, NotFound

import docker
from docker_livemig import hold
from docker_livemig.containers import NO_POLICY, ContainerSpec
from docker_livemig.engine_api import FAILURES, timed_out, translating
from livemig.errors import InternalError, ProcessGone, TransferError
from livemig.freezer import Freezer

REMOVE_LIMIT = 30.0
"""Seconds that a container has to go."""

LEAVING = ("removing", "dead")
"""Docker's words for a container that is being removed, or was in part."""

_CONFLICT = 409
_GOING = "marked for removal"
_LIMIT, _PAUSE = 10.0, 0.05  # seconds that the engine has to take note of an end
_STOP_LIMIT = 10  # seconds between the stop signal and SIGKILL, where the container has none


# The restart policy


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
    deadline = time.monotonic() + _LIMIT
    with translating(f"setting the restart policy of {spec.name}", TransferError):
        while not _leaves(state := _state(api, container_id)):
            try:
                api.update_container(container_id, restart_policy=spec.restart_policy)
                return
            except APIError as error:
                if _GOING in str(error):
                    return  # removed while we asked
                # The engine updates a container that it takes to run by runc, which cannot where it
                # has ended: until the engine has taken note of that.
                pid = state["Pid"]
                if not pid or not _has_ended(pid) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)


# Running on


def unpause(api: docker.APIClient, container_id: str, name: str) -> None:
    """Have Docker know that a container runs which it takes to be paused.

    One that has ended meanwhile, or that somebody else has unpaused, is no error.
    """
    deadline = time.monotonic() + _LIMIT
    with translating(f"unpausing container {name}", TransferError):
        while _state(api, container_id)["Status"] == "paused":
            try:
                api.unpause(container_id)
            except APIError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)


def start(api: docker.APIClient, container_id: str) -> None:
    """Start a container that has ended; one that is being removed is no error."""
    try:
        api.start(container_id)
    except APIError:
        if not _leaves(_state(api, container_id)):
            raise


def pass_on(api: docker.APIClient, container_id: str, *, stop: bool, restart: bool) -> None:
    """Do what `docker stop` or `docker restart` does; the container may be gone."""
    with translating(f"stopping container {container_id[:12]}", TransferError), suppress(NotFound):
        if not stop and not restart:
            return
        config = api.inspect_container(container_id)["Config"]
        (api.restart if restart else api.stop)(container_id, timeout=stop_limit(config))


def stop_limit(config: dict[str, Any]) -> int:
    """Return the seconds that a container's configuration gives it to end (--stop-timeout)."""
    return _STOP_LIMIT if (own := config.get("StopTimeout")) is None else int(own)


# Ending and removing


def kill(api: docker.APIClient, container_id: str) -> None:
    """End PID 1 without Docker, which would not for one that it thinks is paused.

    It is thawed then, and runs no instruction: until then cgroup v1 keeps a frozen process, and of
    one in cgroup v2 runc says that it is paused, so that Docker would remove it in part only.
    """
    with translating(f"looking at container {container_id[:12]}", TransferError):
        pid = int(_state(api, container_id)["Pid"])
    if not pid:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        freezer = Freezer.of_process(pid)
        if container_id in str(freezer.directory):  # and not a later process of that number
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            freezer.thaw()
    except (ProcessLookupError, FileNotFoundError):
        pass  # it has ended
    finally:
        os.close(handle)


def remove(api: docker.APIClient, container_id: str) -> None:
    """Remove a container of this host in whatever state it is, its hold too; again is no error."""
    kill(api, container_id)
    remove_ended(api, container_id, volumes=True)
    hold.forget(container_id)


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
            ended = _await(api, spec.id, "not-running")
        except NotFound:
            return
    if not ended:
        raise InternalError(
            f"Docker did not notice in {REMOVE_LIMIT:g} s that {spec.name} ended",
            hint=f"`docker rm -f {spec.id[:12]}` removes what was moved away",
        )
    if keep:
        with translating(f"renaming {spec.name}", TransferError):
            if api.inspect_container(spec.id)["Name"] != f"/{new_name}":  # as it may be by now
                api.rename(spec.id, new_name)
    else:
        remove_ended(api, spec.id, volumes=False)


def remove_ended(api: docker.APIClient, container_id: str, *, volumes: bool) -> None:
    """Remove a container that does not run, or is just ending, with its ``volumes`` or without."""
    begun = time.monotonic()
    with translating(f"removing container {container_id[:12]}", TransferError), suppress(NotFound):
        while True:
            pid = _state(api, container_id)["Pid"]
            try:
                api.remove_container(container_id, force=True, v=volumes)
                return
            except APIError as error:
                conflict = error.status_code == _CONFLICT
                # Or it ended between two looks of the engine, which wanted to kill it.
                passes = conflict or (pid and _has_ended(pid))
                patience = REMOVE_LIMIT if conflict else _LIMIT
                if not passes or time.monotonic() > begun + patience:
                    raise
            if conflict:  # somebody else removes it: Docker does, where --rm was given
                _await(api, container_id, "removed")
            else:
                time.sleep(_PAUSE)


# Details


def _state(api: docker.APIClient, container_id: str) -> dict[str, Any]:
    """Return what the engine says of a container's state; of one that is gone, "dead"."""
    try:
        return dict(api.inspect_container(container_id)["State"])
    except NotFound:
        return {"Status": "dead", "Pid": 0}


def _leaves(state: dict[str, Any]) -> bool:
    """Tell whether a container is gone, or is just being removed."""
    return state["Status"] in LEAVING


def _has_ended(pid: int) -> bool:
    """Tell whether a container's first process is gone."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _await(api: docker.APIClient, container_id: str, condition: str) -> bool:
    """Wait until a container is so (docker wait); False after REMOVE_LIMIT, NotFound if gone."""
    try:
        api.wait(container_id, timeout=REMOVE_LIMIT, condition=condition)
    except FAILURES as error:
        if not timed_out(error):
            raise
        return False
    return True
