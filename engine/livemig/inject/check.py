"""Look at a rebuilt process from outside before it runs, and compare it with what was sent."""

from __future__ import annotations

import os
from collections.abc import Sequence

from livemig.errors import StateMismatch
from livemig.extract.process import lsm_label
from livemig.intervals import merged
from livemig.model import Kind, Mapping, Process
from livemig.stub.runner import SIZE
from livemig.system import procfs


def check(pid: int, process: Process, mappings: Sequence[Mapping], stub: int) -> None:
    """Raise StateMismatch, naming the field, where /proc shows other than what was sent.

    ``stub`` is the address of the stub, which is still there.
    """
    wanted, found = dict(_wanted(process)), dict(_found(pid))
    for name, value in wanted.items():
        if found[name] != value:
            raise StateMismatch(f"process {pid}: {name} is {found[name]!r}, not {value!r}")
    _check_memory(pid, mappings, stub)


def _wanted(process: Process) -> list[tuple[str, object]]:
    who = process.credentials
    return [
        ("Uid", who.uids),
        ("Gid", who.gids),
        ("Groups", tuple(sorted(who.groups))),
        ("CapInh", who.inheritable),
        ("CapPrm", who.permitted),
        ("CapEff", who.effective),
        ("CapBnd", who.bounding),
        ("CapAmb", who.ambient),
        ("NoNewPrivs", who.no_new_privs),
        ("Seccomp", who.seccomp_mode),
        ("LSM label", who.lsm),
        ("Umask", process.umask),
        ("exe", process.space.exe),
        ("cwd", process.directory),
        ("descriptors", tuple(each.number for each in process.descriptors)),
    ]


def _found(pid: int) -> list[tuple[str, object]]:
    status = procfs.read_status(pid)
    found: list[tuple[str, object]] = [
        (name, tuple(int(word) for word in status[name].split())) for name in ("Uid", "Gid")
    ]
    found.append(("Groups", tuple(sorted(int(word) for word in status["Groups"].split()))))
    found += [
        (name, int(status[name], 16)) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    ]
    found += [
        ("NoNewPrivs", status["NoNewPrivs"] == "1"),
        ("Seccomp", int(status["Seccomp"])),
        ("LSM label", lsm_label(pid)),
        ("Umask", int(status["Umask"], 8)),
        ("exe", os.readlink(f"/proc/{pid}/exe")),
        ("cwd", os.readlink(f"/proc/{pid}/cwd")),
        ("descriptors", tuple(procfs.descriptors(pid))),
    ]
    return found


def _check_memory(pid: int, mappings: Sequence[Mapping], stub: int) -> None:
    areas = [area for area in procfs.read_areas(pid) if not stub <= area.start < stub + SIZE]
    for prot in range(8):
        wanted = merged((each.start, each.end) for each in mappings if each.prot == prot)
        found = merged((each.start, each.end) for each in areas if each.prot == prot)
        if wanted != found:
            place = sorted(set(wanted) ^ set(found))[0]
            raise StateMismatch(
                f"process {pid}: the memory at {place[0]:#x}-{place[1]:#x} was laid out otherwise"
            )
    labels = {Kind.STACK: "[stack]", Kind.VDSO: "[vdso]"}
    named = {area.start: area.name for area in areas}
    for mapping in mappings:
        if mapping.kind in labels and named.get(mapping.start) != labels[mapping.kind]:
            raise StateMismatch(f"process {pid}: {mapping.kind} is missing at {mapping.start:#x}")
