"""Resolve: from a container to its processes, its standard streams, and what cannot be carried."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Container, Iterable, Set
from dataclasses import dataclass

from docker_livemig import health
from docker_livemig.containers import ContainerSpec
from docker_livemig.keptby import refuse_kept
from livemig.errors import NotCarried, NotRunning, ProcessGone
from livemig.extract import read_descriptors, read_layout, refuse_process
from livemig.extract.files import Descriptions
from livemig.freezer import Freezer, await_end, container_processes
from livemig.model import Role
from livemig.system import procfs
from livemig.terminal import looked_at
from livemig.tracing import telling_death

_LOOKS, _PAUSE = 32, 0.0005  # seconds
_OUTPUTS = {1: Role.STDOUT, 2: Role.STDERR}


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
        raise _ended(spec) from error
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
    """Raise NotCarried, naming object and process, for what this version does not carry.

    NotRunning where the container ended meanwhile.
    """
    try:
        with telling_death(resolved.pid):
            _refuse(spec, resolved)
    except ProcessGone as error:
        raise _ended(spec) from error


def _ended(spec: ContainerSpec) -> NotRunning:
    return NotRunning(f"container {spec.name} ended", hint="`docker start` it first")


def _refuse(spec: ContainerSpec, resolved: Resolved) -> None:
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

    The one that the shim writes to is the standard input. Of the others those at 1 and 2 are what
    their number says; one at both is the standard output, which errors mostly join. Raises
    NotCarried where nothing tells.
    """
    ends = _pipes(int(procfs.read_status(pid)["PPid"]))
    own = _own_pipes(pid, ends)
    outputs = {inode: numbers for inode, numbers in own.items() if not ends[inode].writable}
    found = {inode: Role.STDIN for inode in own if inode not in outputs}
    for inode, numbers in outputs.items():
        by_number = (role for number, role in _OUTPUTS.items() if number in numbers)
        others = [each for other, each in outputs.items() if other != inode]
        found[inode] = next(by_number, None) or _role_left(pid, numbers, others)
    return found


def _own_pipes(pid: int, ends: Container[int]) -> dict[int, Set[int]]:
    """Return the numbers of each pipe of a process that has an end in ``ends``.

    One that a shell sends elsewhere for a moment changes its number, and may be missed by a look:
    by some two of five, where it does nothing else.
    """
    found: dict[int, Set[int]] = {}
    for _ in range(_LOOKS):
        look = {inode: each.numbers for inode, each in _pipes(pid).items() if inode in ends}
        found = max(found, look, key=len)
        if len(found) == len(Role):
            break
        time.sleep(_PAUSE)
    return found


def _role_left(pid: int, numbers: Set[int], others: Iterable[Set[int]]) -> Role:
    """Return what an output at neither 1 nor 2 is, where the other one is known."""
    known = [each & _OUTPUTS.keys() for each in others]
    left = [role for number, role in _OUTPUTS.items() if {number} not in known]
    if len(left) == 1:
        return left[0]
    raise NotCarried(
        f"process {pid}: descriptor {min(numbers)} leads to the standard output of its container, "
        "or to its standard error, and nothing tells to which",
        hint="start it so that it keeps one of the two at its number, 1 or 2",
    )


@dataclass(frozen=True)
class _Pipe:
    """A pipe of a process: its descriptors, and whether one of them can write."""

    numbers: Set[int]
    writable: bool


def _pipes(pid: int) -> dict[int, _Pipe]:
    """Return the pipes of a process by inode."""
    numbers: dict[int, set[int]] = {}
    writable: set[int] = set()
    for number in procfs.descriptors(pid):
        try:
            status = os.stat(f"/proc/{pid}/fd/{number}")
            flags = procfs.open_flags(pid, number)
        except FileNotFoundError:
            continue
        if stat.S_ISFIFO(status.st_mode):
            numbers.setdefault(status.st_ino, set()).add(number)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                writable.add(status.st_ino)
    return {inode: _Pipe(each, inode in writable) for inode, each in numbers.items()}
