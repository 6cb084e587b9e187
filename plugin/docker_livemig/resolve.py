"""Resolve: from a container to its processes, its standard streams, and what cannot be carried."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass

from docker_livemig import health
from docker_livemig.containers import ContainerSpec
from docker_livemig.keptby import refuse_kept
from livemig.errors import NotCarried, NotRunning
from livemig.extract import read_descriptors, read_layout, refuse_process
from livemig.extract.files import Descriptions
from livemig.freezer import Freezer, await_end, container_processes
from livemig.model import Role
from livemig.system import procfs
from livemig.terminal import looked_at

_ROLES = (Role.STDIN, Role.STDOUT, Role.STDERR)


@dataclass(frozen=True)
class Resolved:
    """The processes of a container on this host.

    ``processes`` are their IDs here, the container's first process first. ``streams`` tells by
    inode which pipes lead to Docker.
    """

    processes: tuple[int, ...]
    freezer: Freezer
    streams: dict[int, Role]

    @property
    def pid(self) -> int:
        """The container's first process."""
        return self.processes[0]


def resolve(spec: ContainerSpec) -> Resolved:
    """Return the processes of a running container; NotRunning when it ended meanwhile."""
    try:
        freezer = Freezer.of_process(spec.pid)
        processes = _without_probes(spec)
        streams = _streams(spec.pid)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotRunning(f"container {spec.name} ended", hint="`docker start` it first") from error
    return Resolved(tuple(processes), freezer, streams)


def _without_probes(spec: ContainerSpec) -> list[int]:
    """Return the container's processes; where it has a health check, its probes may end first."""
    deadline = time.monotonic() + health.patience(spec)
    while True:
        processes = container_processes(spec.pid)
        left = deadline - time.monotonic()
        if len(processes) == 1 or left <= 0:
            return processes
        await_end(processes[1:], left)


def refuse(spec: ContainerSpec, resolved: Resolved) -> None:
    """Raise NotCarried, naming object and process, for what this version does not carry."""
    if len(resolved.processes) > 1:
        names = {pid: procfs.read_status(pid)["Name"] for pid in resolved.processes}
        named = ", ".join(f"{pid} ({name})" for pid, name in names.items())
        raise NotCarried(
            f"container {spec.name} has {len(resolved.processes)} processes: {named}",
            hint="this version moves containers of one process with one thread",
        )
    refuse_process(resolved.pid)
    read_layout(resolved.pid, 1)
    with looked_at(resolved.pid) as terminal:
        read_descriptors(resolved.pid, Descriptions(resolved.streams, terminal))
    refuse_kept(spec, resolved.pid)


def _streams(pid: int) -> dict[int, Role]:
    """Tell which pipes of the process lead to Docker's shim, its parent.

    Those at descriptors 0, 1 and 2 are what their number says. Others are told apart by direction.
    """
    shim = int(procfs.read_status(pid)["PPid"])
    ends = _pipes(shim)
    found: dict[int, Role] = {}
    own = _pipes(pid)
    for inode, (number, _) in own.items():
        if inode in ends and number < len(_ROLES):
            found[inode] = _ROLES[number]
    for inode, (_, writable) in own.items():
        if inode in ends and inode not in found:
            left = [role for role in _ROLES[1:] if role not in found.values()]
            found[inode] = left[0] if writable and left else Role.STDIN
    return found


def _pipes(pid: int) -> dict[int, tuple[int, bool]]:
    """Return by inode the lowest descriptor of each pipe of a process, and whether it can write."""
    found: dict[int, tuple[int, bool]] = {}
    for number in procfs.descriptors(pid):
        try:
            status = os.stat(f"/proc/{pid}/fd/{number}")
            flags = int(procfs.descriptor_info(pid, number)["flags"], 8)
        except FileNotFoundError:
            continue
        if stat.S_ISFIFO(status.st_mode):
            found.setdefault(status.st_ino, (number, flags & os.O_ACCMODE != os.O_RDONLY))
    return found
