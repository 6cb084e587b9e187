"""What /proc tells of a process (proc(5)), parsed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from livemig.errors import InternalError
from livemig.system import vmflags

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
_LOOKS = 100
_PROT = {"r": PROT_READ, "w": PROT_WRITE, "x": PROT_EXEC, "-": 0}


class Area(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    prot: int
    shared: bool
    offset: int
    device: str
    inode: int
    name: str


def read_bytes(path: str) -> bytes:
    """Return what a file of the kernel says; twice as fast as pathlib, and these are many."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def read_text(path: str) -> str:
    """Return the same as text; bytes that are none stay distinct (surrogateescape)."""
    return read_bytes(path).decode("utf-8", "surrogateescape")


def write_text(path: str, text: str) -> None:
    """Write to a file of the kernel, in one call; OSError where the kernel does not take it."""
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())


def read_areas(pid: int) -> list[Area]:
    """Return the memory areas of a process, by ascending address, vsyscall left out.

    The kernel writes the list a page at a time. What moves meanwhile can show twice: then the list
    is read again.
    """
    for _ in range(_LOOKS):
        areas = _read_areas(pid)
        if all(below.end <= above.start for below, above in pairwise(areas)):
            return areas
    raise InternalError(f"process {pid} changes its memory too fast to be looked at")


def _read_areas(pid: int) -> list[Area]:
    areas = []
    for line in read_text(f"/proc/{pid}/maps").split("\n")[:-1]:
        span, flags, offset, device, rest = line.split(" ", 4)
        inode, _, name = rest.partition(" ")
        first, _, last = span.partition("-")
        if (name := name.lstrip(" ")) == "[vsyscall]":
            continue
        prot = _PROT[flags[0]] | _PROT[flags[1]] | _PROT[flags[2]]
        areas.append(
            Area(
                int(first, 16),
                int(last, 16),
                prot,
                flags[3] == "s",
                int(offset, 16),
                device,
                int(inode),
                name.replace("\\012", "\n"),
            )
        )
    return areas


def has_areas(pid: int, spans: Iterable[tuple[int, int]]) -> bool:
    """Tell whether each span is a memory area, from its beginning to its end."""
    text = "\n" + read_text(f"/proc/{pid}/maps")
    return all(f"\n{start:08x}-{end:08x} " in text for start, end in spans)


class AreaDetails(NamedTuple):
    """What /proc/PID/smaps tells of an area.

    VmFlags, bytes in huge pages (AnonHugePages), and its protection key: 0 is the one of all memory
    that was given no other (pkeys(7)).
    """

    flags: frozenset[str]
    huge: int
    key: int = 0


def read_area_details(pid: int) -> dict[int, AreaDetails]:
    """Return the details of every memory area by its start address: some 15 ms a GiB."""
    path = f"/proc/{pid}/smaps"
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return parse_area_details(lines)


def parse_area_details(lines: Iterable[str]) -> dict[int, AreaDetails]:
    """Return the same from the lines of the file."""
    found: dict[int, AreaDetails] = {}
    start = huge = protection = 0
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "VmFlags:":
            found[start] = AreaDetails(vmflags.named(value.split()), huge, protection)
        elif key == "AnonHugePages:":
            huge = int(value.split()[0]) << 10
        elif key == "ProtectionKey:":
            protection = int(value)
        elif not key.endswith(":"):
            start = int(key.split("-")[0], 16)
    return found


def read_status(pid: int, tid: int | None = None) -> dict[str, str]:
    """Return the fields of /proc/PID/status, or of one thread's."""
    path = f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status"
    fields = {}
    for line in read_text(path).split("\n")[:-1]:
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    return fields


def read_stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat; index 0 is field 1 of proc(5), the name unwrapped."""
    text = read_text(f"/proc/{pid}/stat")
    head, _, tail = text.rpartition(")")
    number, _, name = head.partition("(")
    return [number.strip(), name, *tail.split()]


def is_dying(pid: int) -> bool:
    """Tell whether a process has been killed, or has ended, and may not be quite gone."""
    try:
        return read_status(pid)["State"][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def started(pid: int) -> float:
    """Return when a process was started, in seconds since the epoch, good to a tick of the kernel.

    Field 22 of /proc/PID/stat; btime of /proc/stat, to which it is often added, is cut to seconds.
    """
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + int(read_stat(pid)[21]) / os.sysconf("SC_CLK_TCK")


def threads(pid: int) -> list[int]:
    """Return the thread IDs of a process, in this PID namespace."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def cpu_time_is_limited(pid: int) -> bool:
    """Tell whether a process has a (soft) limit of its CPU time, RLIMIT_CPU.

    By /proc/PID/limits: prlimit(2) wants more than the permission to look at it.
    """
    (line,) = (each for each in read_text(f"/proc/{pid}/limits").splitlines() if "cpu time" in each)
    return line.split()[3] != "unlimited"


def children(pid: int) -> list[int]:
    """Return the children of a process's first thread, those that it has not waited for included.

    /proc/PID/task/TID/children of proc(5); a kernel without it (CONFIG_PROC_CHILDREN) is asked
    for the parent of each process.
    """
    try:
        return [int(word) for word in read_text(f"/proc/{pid}/task/{pid}/children").split()]
    except FileNotFoundError:
        everyone = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [each for each in everyone if _parent(each) == pid]


def _parent(pid: int) -> int:
    try:
        return int(read_stat(pid)[3])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descriptors(pid: int) -> list[int]:
    """Return the numbers of the open descriptors of a process."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def descriptor_info(pid: int, number: int) -> dict[str, str]:
    """Return the fields of /proc/PID/fdinfo/N."""
    text = read_text(f"/proc/{pid}/fdinfo/{number}")
    return {
        key: value.strip() for key, _, value in (each.partition(":") for each in text.splitlines())
    }


def open_flags(pid: int, number: int) -> int:
    """Return with which flags a descriptor's file is open, O_CLOEXEC being the descriptor's own."""
    return int(descriptor_info(pid, number)["flags"], 8)


def is_deleted(name: str) -> bool:
    """Tell whether what a link or a mapping in /proc names has been removed."""
    return name.endswith(" (deleted)")


def namespaced_id(pid: int, tid: int | None = None) -> int:
    """Return the ID of a process, or one of its threads, in its own PID namespace."""
    return innermost_id(read_status(pid, tid))


def innermost_id(status: dict[str, str]) -> int:
    """Return the same from what ``read_status`` has found."""
    return int(status["NSpid"].split()[-1])


def clear_soft_dirty(pid: int) -> None:
    """Clear the soft-dirty bits of all pages (admin-guide/mm/soft-dirty.rst of the kernel)."""
    write_text(f"/proc/{pid}/clear_refs", "4")


def clock_offsets(pid: int) -> tuple[int, int]:
    """Return what the process's time namespace adds to CLOCK_MONOTONIC and BOOTTIME, in ns.

    time_namespaces(7); (0, 0) where the kernel has no time namespaces.
    """
    try:
        text = read_text(f"/proc/{pid}/timens_offsets")
    except FileNotFoundError:
        return 0, 0
    offsets = {}
    for line in text.splitlines():
        name, seconds, nanoseconds = line.split()
        offsets[name] = int(seconds) * 1_000_000_000 + int(nanoseconds)
    return offsets.get("monotonic", 0), offsets.get("boottime", 0)
