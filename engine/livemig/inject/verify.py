"""Read a rebuilt process back, from within and from outside, and compare it with what was sent.

The readers are those of the source, so that whatever is carried is compared; what cannot be the
same is named here. It costs some milliseconds of downtime.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from livemig import xstate
from livemig.errors import StateMismatch
from livemig.extract.files import Descriptions
from livemig.extract.guards import find_guards
from livemig.extract.mappings import shown_flags
from livemig.extract.process import extract_process
from livemig.extract.properties import Properties
from livemig.extract.scheduling import read_scheduling, shown
from livemig.infect import Loan
from livemig.inject.held import Held
from livemig.inject.timers import timer_of
from livemig.intervals import Span, merged, subtract
from livemig.model import Description, Image, Kind, Opened, Process, Role, Scheduling, Thread, Timer
from livemig.model import Mapping as Area
from livemig.pagemap import Pagemap, carried
from livemig.stub.runner import SIZE
from livemig.system import procfs, ptrace
from livemig.system.memory import PAGE_SIZE
from livemig.system.numbers import NR_MMAP, NR_MSYNC, NR_MUNMAP
from livemig.system.ptrace import Registers
from livemig.terminal import Pty

_SLACK = 100_000_000  # ns; what passes between two looks at a clock
_SS_ONSTACK = 1
_SI_KERNEL = 0x80
_REAL_TIME = (1, 2, 6)  # policies that have no timer slack
_MAP_PROBE = 0x100022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
_MS_INVALIDATE = 2
_Same = Callable[[Any, Any], bool]


def verify(
    held: Held,
    image: Image,
    mappings: Sequence[Area],
    filters: int,
    terminal: Pty | None = None,
) -> None:
    """Raise StateMismatch, naming the field, where the held process is not as it was sent.

    It is rebuilt, the stub is still there, and its registers and scheduling are not set yet. Of
    seccomp filters the first ``filters`` are Docker's own, which compares them by their profile.
    """
    (process,) = image.processes
    descriptions = Descriptions(_streams(held.pid, image, process), terminal)
    found = _read(held, process, descriptions)
    both = _comparable(process, process, filters), _comparable(found, process, filters)
    _compare(held.pid, "", *both)
    if _named_alike(descriptions.found) != _named_alike(_used(image, process)):
        raise StateMismatch(f"process {held.pid}: open files are other ones")
    _verify_flags(held, mappings)
    locked = _locks_future(held)
    if locked != bool(process.future_locks):
        raise StateMismatch(f"process {held.pid}: MCL_FUTURE is {locked}")


def _read(held: Held, process: Process, descriptions: Descriptions) -> Process:
    loan = SimpleNamespace(
        tracee=held.tracee,
        memory=held.memory,
        registers=Registers(),
        xstate=b"",
        mask=0,
    )
    found = extract_process(held.pid, process.parent, cast("Loan", loan), held.stub, descriptions)
    pagemap = Pagemap(held.pid)
    try:
        return dataclasses.replace(
            found, guards=tuple(find_guards(pagemap.descriptor, process.guards))
        )
    finally:
        pagemap.close()


def _streams(pid: int, image: Image, process: Process) -> dict[int, Role]:
    """Return the standard streams by inode, as the numbers say that they were put in place."""
    found = {}
    for each in process.descriptors:
        role = image.descriptions[each.description].role
        if role is not None:
            found[os.stat(f"/proc/{pid}/fd/{each.number}").st_ino] = role
    return found


def _named_alike(descriptions: Sequence[Description]) -> list[Description]:
    """Return descriptions with the terminal's number left out, which may be another."""
    return [
        dataclasses.replace(each, path="/dev/pts/")
        if each.kind is Opened.TERMINAL and each.path.startswith("/dev/pts/")
        else each
        for each in descriptions
    ]


def _used(image: Image, process: Process) -> tuple[Description, ...]:
    """Return the descriptions that a process has, in the order of its descriptors."""
    order = dict.fromkeys(each.description for each in process.descriptors)
    return tuple(image.descriptions[index] for index in order)


def _comparable(process: Process, wanted: Process, filters: int) -> Process:
    """Return a process without what is given to it later, or has an order of its own."""
    who = process.credentials
    who = dataclasses.replace(
        who,
        groups=tuple(sorted(who.groups)),
        seccomp_filters=who.seccomp_filters[filters:],
        seccomp_flags=who.seccomp_flags[filters:],
    )
    places: dict[int, int] = {}
    descriptors = tuple(
        dataclasses.replace(each, description=places.setdefault(each.description, len(places)))
        for each in process.descriptors
    )
    pairs = zip(process.threads, wanted.threads, strict=True)
    threads = tuple(_comparable_thread(*pair) for pair in pairs)
    return dataclasses.replace(
        process, credentials=who, descriptors=descriptors, threads=threads, future_locks=0
    )


_LATER = Scheduling(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ())


def _comparable_thread(thread: Thread, wanted: Thread) -> Thread:
    pointer, mode, _, room = struct.unpack("=QiiQ", thread.altstack)
    slack = 0 if wanted.scheduling.policy in _REAL_TIME else thread.timer_slack
    return dataclasses.replace(
        thread,
        registers=b"",
        xstate=b"",
        blocked=0,
        altstack=struct.pack("=QiiQ", pointer, mode & ~_SS_ONSTACK, 0, room),
        timer_slack=slack,
        scheduling=_LATER,
        deadline=None,
    )


def _compare(pid: int, name: str, wanted: object, found: object) -> None:
    """Compare two values field by field; what goes on by itself has a comparison of its own."""
    same = _OWN.get(name.rpartition(".")[2])
    if same is not None:
        if not same(wanted, found):
            raise _other(pid, name, wanted, found)
    elif dataclasses.is_dataclass(wanted) and type(wanted) is type(found):
        for field in dataclasses.fields(wanted):
            parts = getattr(wanted, field.name), getattr(found, field.name)
            _compare(pid, f"{name}.{field.name}".lstrip("."), *parts)
    elif isinstance(wanted, tuple) and isinstance(found, tuple) and len(wanted) == len(found):
        for index, parts in enumerate(zip(wanted, found, strict=True)):
            _compare(pid, f"{name}[{index}]", *parts)
    elif wanted != found:
        raise _other(pid, name, wanted, found)


def _other(pid: int, name: str, wanted: object, found: object) -> StateMismatch:
    return StateMismatch(f"process {pid}: {name} is {found!r:.200}, not {wanted!r:.200}")


def _same_intervals(wanted: Sequence[bytes], found: Sequence[bytes]) -> bool:
    """Compare ``struct itimerval``: the interval, and whether they run."""
    pairs = zip(wanted, found, strict=True)
    return all(a[:16] == b[:16] and (any(a) == any(b) or not any(a[:16])) for a, b in pairs)


def _same_timers(wanted: Sequence[Timer], found: Sequence[Timer]) -> bool:
    if len(wanted) != len(found):
        return False
    return all(_same_timer(*pair) for pair in zip(wanted, found, strict=True))


def _same_timer(wanted: Timer, found: Timer) -> bool:
    still = {"left": 0, "expires": 0, "overruns": 0}
    if dataclasses.replace(wanted, **still) != dataclasses.replace(found, **still):
        return False
    if not wanted.left or (found.left == 0 and not wanted.interval):
        return wanted.left == found.left or wanted.left < _SLACK
    if not wanted.expires:
        return found.left <= wanted.left + _SLACK
    off = found.expires - wanted.expires
    if wanted.interval:
        off = min(off % wanted.interval, -off % wanted.interval)
    return abs(off) <= _SLACK


def _same_pending(wanted: Sequence[bytes], found: Sequence[bytes]) -> bool:
    """Compare siginfos number by number; what a timer has added meanwhile is no difference."""
    numbers = {info[:4] for info in (*wanted, *found)}
    return all(
        _same_queue(*([info for info in each if info[:4] == number] for each in (wanted, found)))
        for number in numbers
    )


def _same_queue(left: list[bytes], found: list[bytes]) -> bool:
    for info in found:
        if left and _signal(info) == _signal(left[0]):
            left.pop(0)
        elif struct.unpack_from("=8xi", info)[0] != _SI_KERNEL and timer_of(info) is None:
            return False
    return not left


def _signal(info: bytes) -> object:
    return info[:4] if timer_of(info) is not None else info[:48]


def _same_settings(wanted: Mapping[str, int], found: Mapping[str, int]) -> bool:
    return all(found.get(name, 0) == value for name, value in wanted.items())


def _includes(wanted: int, found: int) -> bool:
    """Tell whether all registrations are there: one more may show where a kernel does not tell."""
    return not wanted & ~found


def _same_or_lacking(wanted: int | None, found: int | None) -> bool:
    return wanted == found or None in (wanted, found)


_OWN: dict[str, _Same] = {
    "interval_timers": _same_intervals,
    "timers": _same_timers,
    "pending": _same_pending,
    "settings": _same_settings,
    "autogroup": _same_or_lacking,
    "membarrier": _includes,
}


def _verify_flags(held: Held, mappings: Sequence[Area]) -> None:
    """Compare the flags of memory areas, wherever they begin and end."""
    stub = held.stub.base
    areas = [each for each in procfs.read_areas(held.pid) if not stub <= each.start < stub + SIZE]
    properties = Properties(held.pid)
    told = zip(areas, properties.of(areas, frozen=True), strict=True)
    found = [(each, (*shown_flags(each), *flags)) for each, flags in told]
    names = {flag for each in mappings for flag in each.flags}
    names |= {flag for _, flags in found for flag in flags}
    for name in sorted(names):
        wanted = merged((each.start, each.end) for each in mappings if name in each.flags)
        present = merged((each.start, each.end) for each, flags in found if name in flags)
        if wanted != present:
            place = sorted(set(wanted) ^ set(present))[0]
            raise StateMismatch(
                f"process {held.pid}: the flag {name} of the memory at {place[0]:#x} differs"
            )


def _locks_future(held: Held) -> bool:
    """Tell whether what the process maps is locked, by mapping a page beside the stub."""
    table = held.stub.table()
    place = held.stub.base + SIZE
    table.call("mmap", NR_MMAP, place, PAGE_SIZE, 3, _MAP_PROBE, -1, 0)
    told = table.call("msync", NR_MSYNC, place, PAGE_SIZE, _MS_INVALIDATE, may_fail=True)
    table.call("munmap", NR_MUNMAP, place, PAGE_SIZE)
    return held.stub.run(table)[told] == -errno.EBUSY


def verify_thread(pid: int, thread: Thread, registers: Registers) -> None:
    """Compare what a thread was given last: registers, signal mask, scheduling."""
    present = (
        ("registers", bytes(registers), bytes(ptrace.get_registers(pid))),
        ("xstate", xstate.on_this_cpu(pid, thread.xstate), ptrace.get_xstate(pid)),
        ("blocked", thread.blocked, ptrace.get_sigmask(pid)),
        ("scheduling", shown(thread.scheduling), read_scheduling(pid)),
    )
    for name, wanted, found in present:
        if wanted != found:
            raise _other(pid, name, wanted, found)


def verify_absent(held: Held, mappings: Sequence[Area], sent: Iterable[Span]) -> None:
    """Raise StateMismatch where the process has a page that was not sent, and that holds anything.

    A page of its own that shows zeros is what untouched memory shows; in a file's place it is not.
    """
    wanted = merged(sent)
    pagemap = Pagemap(held.pid)
    try:
        for mapping in carried(mappings):
            for start, end in subtract(pagemap.private_pages([mapping]), wanted):
                if mapping.kind is Kind.FILE or any(held.memory.read(start, end - start)):
                    raise StateMismatch(
                        f"process {held.pid}: the pages at {start:#x}-{end:#x} were not sent"
                    )
    finally:
        pagemap.close()
