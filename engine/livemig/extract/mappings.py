"""Read the memory layout of a process, and name what in it cannot be carried."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from livemig.errors import NotCarried, ProcessGone
from livemig.model import Kind, Layout, MappedFile, Mapping
from livemig.system import procfs
from livemig.system.procfs import Area

_KINDS = {
    "[stack]": Kind.STACK,
    "[vdso]": Kind.VDSO,
    "[vvar]": Kind.VVAR,
    "[vvar_vclock]": Kind.VVAR,
}
# VmFlags (proc(5)) that this version does not carry.
_REFUSED_FLAGS = {
    "ht": "huge pages (MAP_HUGETLB)",
    "lo": "locked memory (mlock)",
    "io": "memory of a device",
    "pf": "memory of a device",
    "wf": "memory that is wiped on fork (MADV_WIPEONFORK)",
    "dc": "memory that is not inherited on fork (MADV_DONTFORK)",
    "mg": "memory that is merged with equal pages (MADV_MERGEABLE)",
    "um": "memory whose page faults a program handles (userfaultfd)",
    "uw": "memory whose page faults a program handles (userfaultfd)",
    "gd": "memory that grows down (MAP_GROWSDOWN)",
}
_EXCEPT = ("[stack]", "[v")  # carried, whatever flags they have


def read_layout(pid: int, container_pid: int) -> Layout:
    """Return the layout of process ``pid``, known as ``container_pid`` in its container.

    Raises NotCarried for a mapping that cannot be carried, by its address and file, and ProcessGone
    where there is no memory any more.
    """
    areas = procfs.read_areas(pid)
    if not areas:
        raise ProcessGone(f"process {pid} has ended")
    return Layout(container_pid, tuple(_mapping(pid, area) for area in areas))


def _mapping(pid: int, area: Area) -> Mapping:
    if area.shared:
        raise _refused(pid, area, "shared memory")
    if (kind := _KINDS.get(area.name)) is not None:
        return Mapping(area.start, area.end, area.prot, kind)
    if area.inode == 0 and not area.name.startswith("/"):
        return Mapping(area.start, area.end, area.prot, Kind.ANONYMOUS)
    if area.name.endswith(" (deleted)"):
        raise _refused(pid, area, "a mapped file that was deleted")
    if area.name.startswith("/dev/"):
        raise _refused(pid, area, "a mapped device")
    return Mapping(area.start, area.end, area.prot, Kind.FILE, area.offset, area.name)


def _refused(pid: int, area: Area, what: str) -> NotCarried:
    name = f" ({area.name})" if area.name else ""
    return NotCarried(
        f"process {pid}: {what} at {area.start:#x}-{area.end:#x}{name} cannot be carried",
        hint="this version carries private mappings of memory and of files that exist",
    )


def refuse_mappings(pid: int) -> None:
    """Raise NotCarried for a mapping with a property that would not arrive, named."""
    flags = procfs.read_area_flags(pid)
    for area in procfs.read_areas(pid):
        for flag, what in _REFUSED_FLAGS.items():
            if flag in flags.get(area.start, frozenset()) and not area.name.startswith(_EXCEPT):
                raise _refused(pid, area, what)


def mapped_files(pid: int, mappings: Iterable[Mapping]) -> list[MappedFile]:
    """Return size and digest of every file that ``mappings`` of a process show.

    The file that is mapped is read, whatever its path names by now (/proc/PID/map_files, proc(5)).
    """
    found: dict[str, MappedFile] = {}
    for mapping in mappings:
        if mapping.kind is Kind.FILE and mapping.path not in found:
            link = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
            found[mapping.path] = digest_file(link, mapping.path)
    return list(found.values())


def digest_file(place: str | int, path: str) -> MappedFile:
    """Return size and blake2b-256 digest of the file at ``place`` (a path or a descriptor)."""
    with open(place, "rb", closefd=not isinstance(place, int)) as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
        return MappedFile(path, file.tell(), digest.digest())
