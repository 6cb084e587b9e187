"""Clean up after peers of this host that were killed: what their journals still promise.

Presumed abort: without COMMIT in its journal a source's container runs on, and a target's that is
not READY is removed. What was committed, or is ready, this host cannot decide alone: it stays.
"""

from __future__ import annotations

import os

import psutil
from docker.errors import NotFound

import docker
from docker_livemig import containers
from docker_livemig.engine_api import translating
from docker_livemig.journal import Entry, Journal
from livemig.errors import LivemigError, TransferError
from livemig.freezer import Freezer

HELD, FREEZING = "held", "freezing"


def owner() -> list[float]:
    """Return what tells this process from every other, for the first entry of a journal."""
    return [os.getpid(), psutil.Process().create_time()]


def sweep(api: docker.APIClient) -> list[str]:
    """Undo the moves of dead peers; return a line for each, undone or not."""
    lines = []
    for journal in Journal.all():
        last = journal.last()
        if last is None or last.state not in (HELD, FREEZING) or _lives(last):
            continue
        name = last.details.get("container", "")
        try:
            if last.state == HELD:
                _remove(api, name)
            else:
                _let_run(api, name, last.details.get("policy"))
            journal.remove()
            lines.append(f"undid the move {journal.move_id}, which was {last.state}")
        except (LivemigError, OSError) as error:
            lines.append(f"the move {journal.move_id}, which was {last.state}, stays: {error}")
    return lines


def _lives(entry: Entry) -> bool:
    pid, created = entry.details.get("owner", (0, 0))
    try:
        return bool(psutil.Process(int(pid)).create_time() == created)
    except psutil.NoSuchProcess:
        return False


def _freezer(api: docker.APIClient, container: str) -> Freezer | None:
    """Return the freezer of a container that runs, None for one that does not or is gone."""
    with translating(f"looking at container {container[:12]}", TransferError):
        try:
            state = api.inspect_container(container)["State"]
        except NotFound:
            return None
    return Freezer.of_process(state["Pid"]) if state.get("Pid") else None


def _remove(api: docker.APIClient, container: str) -> None:
    freezer = _freezer(api, container)
    containers.remove(api, container, freezer.thaw if freezer else None)


def _let_run(api: docker.APIClient, container: str, policy: object) -> None:
    freezer = _freezer(api, container)
    if freezer is None:
        return
    freezer.thaw()
    with translating(f"setting the restart policy of {container[:12]}", TransferError):
        if api.inspect_container(container)["HostConfig"]["RestartPolicy"] != policy:
            api.update_container(container, restart_policy=policy)
