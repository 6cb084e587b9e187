"""What there is in a host, so that a test can see that nothing was left behind."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

from . import cgroups
from .machine import Host
from .proc import read_stat


@dataclass(frozen=True)
class Snapshot:
    """Counts of named things; every field is one kind."""

    processes: Counter[str]
    """Each by what it is, which stays, and after a space by its program, which may change."""
    mounts: Counter[str]
    networks: Counter[str]
    cgroups: Counter[str]
    containers: Counter[str]
    images: Counter[str]
    files: Counter[str]


def snapshot(host: Host) -> Snapshot:
    """Look at everything in the host that a move may leave behind."""
    api = host.api()
    try:
        containers = Counter(
            f"{','.join(each['Names'])} {each['Id'][:12]}" for each in api.containers(all=True)
        )
        images = Counter(
            f"{','.join(each['RepoTags'] or ['untagged'])} {each['Id']}"
            for each in api.images(all=True)
        )
    finally:
        api.close()
    return Snapshot(
        processes=_processes(host),
        mounts=_mounts(host),
        networks=Counter(_links(host)),
        cgroups=Counter(cgroups.below(host.config.cgroup)),
        containers=containers,
        images=images,
        files=_files(host, ("/run/livemig", "/var/lib/livemig", "/tmp")),
    )


def leaks(before: Snapshot, after: Snapshot) -> dict[str, list[str]]:
    """Return what is in `after` and was not in `before`, by kind; empty when nothing is.

    A process that has executed another program since is no new one: `docker start` returns while
    runc's first process is yet to become the container's.
    """
    found = {}
    for field in fields(Snapshot):
        earlier: Counter[str] = getattr(before, field.name)
        more: Counter[str] = getattr(after, field.name) - earlier
        if field.name == "processes":
            known = {name.split(" ")[0] for name in earlier}
            more = Counter({name: n for name, n in more.items() if name.split(" ")[0] not in known})
        if more:
            found[field.name] = sorted(more.elements())
    return found


def _processes(host: Host) -> Counter[str]:
    proc = host.path("/proc")
    found: Counter[str] = Counter()
    for entry in os.listdir(proc):
        stat = read_stat(int(entry), str(proc)) if entry.isdigit() else None
        if stat is None:
            continue
        try:
            words = (proc / entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
            name = words.strip() or (proc / entry / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[f"{entry}@{stat[1]}{'-zombie' if stat[0] == 'Z' else ''} {name[:120]}"] += 1
    return found


def _mounts(host: Host) -> Counter[str]:
    lines = Path(f"/proc/{host.pid}/mountinfo").read_text().splitlines()
    return Counter(f"{line.split()[4]} {line.split(' - ')[1].split()[0]}" for line in lines)


def _links(host: Host) -> list[str]:
    """Network interfaces: a container's network that was left shows here by its veth."""
    lines = Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]


# Made once, by whoever comes first, and empty afterwards.
_RUNTIME_DIRECTORIES = (
    "/var/lib/livemig",
    "/var/lib/livemig/.hold",
)


def _files(host: Host, places: tuple[str, ...]) -> Counter[str]:
    found: Counter[str] = Counter()
    repository = str(host.path(host.config.repo))  # a clone may lie below /tmp
    for place in places:
        root = host.path(place)
        for top, directories, names in os.walk(root):
            directories[:] = [name for name in directories if f"{top}/{name}" != repository]
            inside = f"{place}/{Path(top).relative_to(root)}".removesuffix("/.")
            found.update([inside, *(f"{inside}/{name}" for name in names)])
    for kept in _RUNTIME_DIRECTORIES:
        del found[kept]
    return found
