"""The copy of a container that this host has: what it is, and each way in which it can end.

All that is needed is in the journal and in Docker, so any peer of this host can do it, again too.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from docker.errors import NotFound

import docker
from docker_livemig import hold, images, lifecycle, restarts
from docker_livemig.containers import ContainerSpec
from docker_livemig.engine_api import RUNTIME, translating
from docker_livemig.images import Loaded
from docker_livemig.journal import Entry, Journal
from docker_livemig.steps import TargetState
from livemig.errors import InternalError, ProtocolError, TransferError
from livemig.freezer import Freezer
from livemig.wire import from_wire


@dataclass(frozen=True)
class Copy:
    """A container as Docker and the kernel see it; ``status`` is Docker's word, or "gone"."""

    status: str
    pid: int = 0
    frozen: bool = False
    policy: dict[str, Any] | None = None

    @property
    def lives(self) -> bool:
        """Whether its first process is there, frozen or not."""
        return self.pid != 0

    @property
    def word(self) -> str:
        """Say it in one word."""
        return "frozen" if self.lives and self.frozen else self.status


def look(api: docker.APIClient, container: str) -> Copy:
    """Return what there is of a container on this host."""
    with translating(f"looking at container {container[:12]}", TransferError):
        try:
            found = api.inspect_container(container)
        except NotFound:
            return Copy("gone")
    state = found["State"]
    pid = int(state.get("Pid") or 0)
    policy = found["HostConfig"].get("RestartPolicy")
    if pid and (freezer := freezer_of(pid)):
        with suppress(OSError):  # its end may come between, and take the cgroup along
            return Copy(state["Status"], pid, freezer.frozen(), policy)
    return Copy(state["Status"] if not pid else "exited", 0, policy=policy)


def freezer_of(pid: int) -> Freezer | None:
    """Return the freezer of a container's first process, None where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Freezer.of_process(pid)
    return None


def spec_of(journal: Journal, known: Entry | None = None) -> ContainerSpec:
    """Return the container that a move's journal is about, as its source described it.

    ``known`` is what was read of it (`Journal.known`). InternalError, naming the journal, where it
    does not say so.
    """
    details = known.details if known else journal.details()
    try:
        return from_wire(ContainerSpec, details.get("spec"))
    except ProtocolError as error:
        raise _silent(journal, f": {error.message}") from error


def container_of(journal: Journal) -> str:
    """Return the ID of a target's copy; InternalError as in `spec_of`."""
    if container := journal.details().get("container"):
        return str(container)
    raise _silent(journal)


def _silent(journal: Journal, why: str = "") -> InternalError:
    return InternalError(
        f"{journal.path} does not say which container it is about{why}",
        hint="another version wrote it, which can recover that move, or it is damaged: see what "
        f"runs on both hosts, and remove {journal.directory}",
    )


# Source


def let_run(api: docker.APIClient, spec: ContainerSpec, since: float) -> None:
    """Let the source's container run on as before, with its restart policy.

    One that has ended by itself after ``since`` (s since the epoch; 0: is not looked for), or
    because Docker was restarted, is started again, where its policy says so: Docker itself would
    have done that.
    """
    copy = look(api, spec.id)
    if copy.status == "gone":
        return
    if copy.lives and copy.status != "paused" and (freezer := freezer_of(copy.pid)):
        freezer.thaw()
    _restore_policy(api, spec.id, spec, copy)
    if since:
        restarts.start_again(api, spec.id, spec, since)


def end(api: docker.APIClient, journal: Journal) -> None:
    """End the source's container, which was handed over: no instruction of it runs any more."""
    spec, details = spec_of(journal), journal.details()
    copy = look(api, spec.id)
    if copy.status == "gone":
        return
    if copy.lives:
        lifecycle.kill(api, spec.id)
    keep = bool(details.get("keep_source"))
    name = lifecycle.kept_name(spec, journal.move_id)
    lifecycle.remove_source(api, spec, keep=keep, new_name=name)


# Target


def discard(api: docker.APIClient, journal: Journal) -> None:
    """Remove what a move has made on its target: the container, its hold, and the image."""
    details = journal.details()
    container = details.get("container") or _made_by(api, journal)
    if container:
        lifecycle.remove(api, container)
    if loaded := details.get("loaded"):
        images.remove_loaded(api, from_wire(Loaded, loaded))


def settle_in(api: docker.APIClient, journal: Journal) -> None:
    """Tell Docker on the target that the container which arrived runs; may be done again.

    A dockerd may have ended it as it started, and takes its time for that: one that was started
    since the container was held may have done so after the container began to run.
    """
    spec, container = spec_of(journal), container_of(journal)
    copy = look(api, container)
    if copy.lives and (freezer := freezer_of(copy.pid)):
        freezer.thaw()
        if copy.status == "paused":
            hold.running(container)
            lifecycle.unpause(api, container, spec.name)
        with suppress(FileNotFoundError):
            hold.unmount(copy.pid)
    hold.forget(container)
    _restore_policy(api, container, spec, copy)
    restarts.start_again(api, container, spec, journal.since(TargetState.HELD))


# Details


def _restore_policy(api: docker.APIClient, container: str, spec: ContainerSpec, copy: Copy) -> None:
    if copy.status == "gone" or not spec.keeps_restarting:
        return
    if copy.policy != spec.restart_policy:
        lifecycle.restore_policy(api, container, spec)


def _made_by(api: docker.APIClient, journal: Journal) -> str:
    """Return the container that a peer made and could not note any more, empty without one.

    It was never started, has our runtime, and was made after the journal said that it would be.
    """
    if journal.state != "creating":
        return ""
    with translating("listing containers", TransferError):
        found = api.containers(all=True, filters={"status": "created"})
        for each in found:
            if f"/{spec_of(journal).name}" not in each["Names"]:
                continue
            host = api.inspect_container(each["Id"])["HostConfig"]
            last = journal.last()
            if host.get("Runtime") == RUNTIME and last and each["Created"] >= int(last.time):
                return str(each["Id"])
    return ""
