"""Read the memory layout of a process, and name what in it cannot be carried."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from livemig import vdso
from livemig.errors import ProcessGone
from livemig.extract.properties import Properties, refuse_area, refused
from livemig.model import SHARED, Kind, Layout, MappedFile, Mapping
from livemig.system import procfs
from livemig.system.memory import Memory, user_start
from livemig.system.procfs import Area

_KINDS = {
    "[stack]": Kind.STACK,
    "[vdso]": Kind.VDSO,
    "[vvar]": Kind.VVAR,
    "[vvar_vclock]": Kind.VVAR,
}
_PROBED = "[uprobes"  # kernel/events/uprobes.c; "[uprobes-trampoline]" from Linux 6.18 on


def read_layout(
    pid: int, container_pid: int, properties: Properties | None = None, *, frozen: bool = False
) -> Layout:
    """Return the layout of process ``pid``, known as ``container_pid`` in its container.

    ``properties`` adds the flags of the mappings, which are exact when the process is ``frozen``.
    Raises NotCarried for a mapping that cannot be carried, by its address and file, and ProcessGone
    where there is no memory any more.
    """
    if properties is not None:
        properties.look()
    areas = procfs.read_areas(pid)
    if not areas:
        raise ProcessGone(f"process {pid} has ended")
    mappings = [_mapping(pid, area) for area in areas]
    if properties is not None:
        both = zip(mappings, properties.of(areas, frozen=frozen), strict=True)
        mappings = [_with_flags(each, flags) if flags else each for each, flags in both]
    return Layout(container_pid, tuple(_tell_copies(pid, mappings)))


def _tell_copies(pid: int, mappings: list[Mapping]) -> Iterator[Mapping]:
    """Yield mappings, copies of other kernels' vDSOs told apart from code that was made here."""
    prot = procfs.PROT_READ | procfs.PROT_EXEC
    made = {m.start for m in mappings if m.kind is Kind.ANONYMOUS and m.prot == prot}
    sizes = _copy_sizes(pid, made) if made else {}
    for each in mappings:
        middle = each.start + sizes.get(each.start, 0)
        if each.start < middle <= each.end:
            yield replace(each, end=middle, kind=Kind.FOREIGN)
            if middle < each.end:
                yield replace(each, start=middle)
        else:
            yield each


def _copy_sizes(pid: int, places: Iterable[int]) -> dict[int, int]:
    memory = Memory(pid)
    try:
        return {place: vdso.copy_size(_head(memory, place)) for place in places}
    finally:
        memory.close()


def _head(memory: Memory, place: int) -> bytes:
    try:
        return memory.read(place, vdso.HEAD)
    except ProcessLookupError:
        raise
    except OSError:  # unmapped since
        return b""


@functools.lru_cache(1 << 16)
def _mapping(pid: int, area: Area) -> Mapping:
    """Return what an area is; the same object where it is as it was, so that few are compared."""
    if area.shared and not _only_read(area):
        raise refused(pid, area, "shared memory")
    if area.start < user_start():
        raise refused(pid, area, "memory below vm.mmap_min_addr")
    if (kind := _KINDS.get(area.name)) is not None:
        return Mapping(area.start, area.end, area.prot, kind)
    if area.name.startswith(_PROBED):
        raise refused(
            pid,
            area,
            "code of the kernel's for uprobes (perf, bpftrace)",
            "a program that was probed keeps it: start it anew, without probes",
        )
    if area.inode == 0 and not area.name.startswith("/"):
        return Mapping(area.start, area.end, area.prot, Kind.ANONYMOUS)
    if area.name.startswith("/anon_hugepage"):
        raise refused(pid, area, "huge pages (MAP_HUGETLB)")
    if procfs.is_deleted(area.name):
        raise refused(pid, area, "a mapped file that was deleted")
    if area.name.startswith("/dev/"):
        raise refused(pid, area, "a mapped device")
    flags = shown_flags(area)
    return Mapping(area.start, area.end, area.prot, Kind.FILE, area.offset, area.name, flags)


def _only_read(area: Area) -> bool:
    """Tell whether shared memory may be a file that nobody can write to through it.

    What is missing is VM_MAYWRITE (``mw``), which smaps alone tells: ``refuse_area`` looks.
    """
    file = area.name.startswith("/") and not procfs.is_deleted(area.name)
    return file and not area.name.startswith("/dev/") and not area.prot & procfs.PROT_WRITE


def shown_flags(area: Area) -> tuple[str, ...]:
    """Return the flags of an area that are known without smaps."""
    return (SHARED,) if area.shared else ()


def _with_flags(mapping: Mapping, flags: tuple[str, ...]) -> Mapping:
    return replace(mapping, flags=tuple(sorted({*mapping.flags, *flags})))


def refuse_mappings(pid: int) -> None:
    """Raise NotCarried for a mapping with a property that would not arrive, named."""
    details = procfs.read_area_details(pid)
    for area in procfs.read_areas(pid):
        if (found := details.get(area.start)) is not None:
            refuse_area(pid, area, found)


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
