"""What the kernel keeps for a container beside its processes, and what cannot be carried of it."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from docker_livemig.altered import altered, unmade
from docker_livemig.bundle import read_bundle
from docker_livemig.containers import ContainerSpec
from docker_livemig.ownfiles import edited_files
from livemig.errors import NotCarried
from livemig.system.handles import CLONE_NEWIPC, seen_inside
from livemig.system.mounts import read_mounts

_SYSV = {
    "shm": "System V shared memory",
    "sem": "System V semaphores",
    "msg": "a System V message queue",
}
_MANY = "/sys/fs/cgroup/"  # one mount for each hierarchy

# What runc puts into /dev (its libcontainer/specconv and rootfs_linux.go), but for mounts.
_NODES = {
    "null": os.makedev(1, 3),
    "zero": os.makedev(1, 5),
    "full": os.makedev(1, 7),
    "random": os.makedev(1, 8),
    "urandom": os.makedev(1, 9),
    "tty": os.makedev(5, 0),
}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
    "core": "/proc/kcore",
}


def refuse_kept(spec: ContainerSpec, pid: int) -> None:
    """Raise NotCarried for IPC objects of the container of process ``pid``, and for its mounts.

    That is for mounts that were made inside it; those that Docker made are Docker's concern. So it
    is for files that Docker writes, where they were changed inside.
    """
    if found := [
        *_files_in_memory(pid),
        *_device_files(pid),
        *edited_files(spec, pid),
        *_ipc_objects(pid),
        *_mounts(spec.id, pid),
        *altered(spec, pid),
    ]:
        raise NotCarried(
            f"container {spec.name} has what cannot be carried to another host: {'; '.join(found)}",
            hint="remove these, or wait for a version that carries them",
        )


def _files_in_memory(pid: int) -> Iterator[str]:
    for place in ("dev/shm", "dev/mqueue"):
        directory = Path(f"/proc/{pid}/root/{place}")
        for name in sorted(os.listdir(directory)) if directory.is_dir() else ():
            yield f"the file /{place}/{name}, which is kept in memory"


def _device_files(pid: int) -> Iterator[str]:
    """Yield what is in /dev, a file system in memory, and was not put there by the runtime.

    What is mounted there is no concern of this one.
    """
    directory = f"/proc/{pid}/root/dev"
    if not os.path.isdir(directory):
        return
    device = os.stat(directory).st_dev
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}"
        with suppress(FileNotFoundError):  # removed just now
            if os.lstat(path).st_dev == device and not _is_runtimes(name, path):
                yield f"/dev/{name}, which was made or changed inside it, and is kept in memory"


def _is_runtimes(name: str, path: str) -> bool:
    if os.path.islink(path):
        return os.readlink(path) == _LINKS.get(name)
    found = os.lstat(path)
    as_made = (stat.S_IFCHR | 0o666, 0, 0, _NODES.get(name))
    return (found.st_mode, found.st_uid, found.st_gid, found.st_rdev) == as_made


def _ipc_objects(pid: int) -> Iterator[str]:
    for kind, lines in seen_inside(pid, "ipc", CLONE_NEWIPC, _read_sysv).items():
        for line in lines:
            yield f"{_SYSV[kind]} (key {line.split()[0]}, ID {line.split()[1]})"


def _read_sysv() -> dict[str, list[str]]:
    return {kind: Path("/proc/sysvipc", kind).read_text().splitlines()[1:] for kind in _SYSV}


def _mounts(container_id: str, pid: int) -> Iterator[str]:
    """Yield the mounts that neither the bundle asks for nor Docker binds into each container."""
    bundle = read_bundle(pid)
    linux = bundle.get("linux") or {}
    made = [mount["destination"] for mount in bundle["mounts"]]
    made += [*(linux.get("maskedPaths") or []), *(linux.get("readonlyPaths") or [])]
    asked, mounts = Counter(["/", "/dev/console", *made]), read_mounts(pid)
    read_only = bool((bundle.get("root") or {}).get("readonly"))
    yield from unmade(made, mounts, pid, read_only=read_only)
    for mount in mounts:
        if asked[mount.point]:
            asked[mount.point] -= 1
        elif not mount.point.startswith(_MANY) and container_id not in mount.root:
            yield f"the mount at {mount.point} ({mount.kind}), which was made inside it"
