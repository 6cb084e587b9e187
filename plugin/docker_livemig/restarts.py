"""What Docker does not do for a container that ends while its restart policy is taken away.

From the freeze until it is known to run again, here or there, a container that is moved has the
policy "no", so that no second copy is started. Between its thaw and its policy's return lie some
hundredths of a second, in which it may end by itself.
"""

from __future__ import annotations

import signal
import time

from docker.errors import NotFound

import docker
from docker_livemig import dockerd, lifecycle
from docker_livemig.containers import ContainerSpec
from docker_livemig.engine_api import translating
from docker_livemig.events import stop_signal
from livemig.errors import TransferError


def start_again(api: docker.APIClient, container: str, spec: ContainerSpec, since: float) -> None:
    """Start a container that has ended by itself ``since`` then (s since the epoch).

    That is, where its policy says so, which it has again by now. Nothing where it is gone. A
    dockerd that ends its containers as it starts says "kill" of each, as of those that somebody
    wanted to end: where one has started since then, nobody is taken to have wanted it.
    """
    if not spec.keeps_restarting:
        return
    with translating(f"starting container {spec.name}", TransferError):
        if not api.containers(all=True, filters={"id": container, "status": "exited"}):
            return
        try:
            code = int(api.inspect_container(container)["State"]["ExitCode"])
        except NotFound:
            return
        if not _wants(spec, code):
            return
        if dockerd.started() > since > 0 or not _was_told_to_end(api, container, spec, since):
            lifecycle.start(api, container)


def _wants(spec: ContainerSpec, exit_code: int) -> bool:
    return spec.restart_policy.get("Name") != "on-failure" or exit_code != 0


def _was_told_to_end(
    api: docker.APIClient, container: str, spec: ContainerSpec, since: float
) -> bool:
    """Tell whether somebody stopped or killed it by Docker since then."""
    ends = (str(int(signal.SIGKILL)), str(stop_signal(spec)))
    span = {"since": f"{since:.9f}", "until": f"{time.time():.9f}"}
    events = api.events(**span, filters={"container": container, "event": "kill"}, decode=True)
    return any(each["Actor"]["Attributes"].get("signal") in ends for each in events)
