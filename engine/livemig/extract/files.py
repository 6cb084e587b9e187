"""Read the open files of processes, and name those that cannot be carried."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from collections.abc import Mapping as MappingType
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from livemig.errors import NotCarried
from livemig.model import Description, Descriptor, Opened, Role
from livemig.stub import Stub
from livemig.system import handles, procfs, ttys
from livemig.system.mounts import read_mounts
from livemig.system.numbers import NR_FCNTL
from livemig.terminal import Pty

O_CLOEXEC = 0o2000000
O_ASYNC = 0o20000
MAX_PASSED = 200
"""Files that a process may have open, each once: the kernel passes 253 at most (SCM_MAX_FD)."""
OWN_NUMBERS = range(1008, 1024)
"""What a held process keeps for descriptors of its own."""
_F_GETFD, _F_GETOWN_EX = 1, 16  # include/uapi/asm-generic/fcntl.h in Linux
_OWNER_SIZE = 8  # struct f_owner_ex
_KEPT_FLAGS = ~(O_CLOEXEC | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY)
_MEMORY_DEVICES = 1  # major number of null, zero, full, random, urandom
_CLOSED = (errno.ENOENT, errno.EBADF)
_LOOKS = 100
_CARRIED_MINORS = {3, 5, 7, 8, 9}
_KERNEL_TREES = ("/proc/", "/sys/")


@dataclass
class Descriptions:
    """The open file descriptions of all processes, each once however many descriptors share it.

    ``streams`` tells by inode which pipes are the container's standard streams, ``terminal`` is
    its terminal.
    """

    streams: MappingType[int, Role]
    terminal: Pty | None = None
    found: list[Description] = field(default_factory=list)
    _owners: list[tuple[int, int]] = field(default_factory=list)
    _mounts: dict[int, frozenset[int]] = field(default_factory=dict)

    def place(self, pid: int, number: int) -> int:
        """Return the index of the description behind a descriptor, adding it where it is new."""
        description = self._describe(pid, number)
        for index, (owner, other) in enumerate(self._owners):
            if self.found[index] == description and _is_same(pid, number, owner, other):
                return index
        self.found.append(description)
        self._owners.append((pid, number))
        return len(self.found) - 1

    def _describe(self, pid: int, number: int) -> Description:
        link = f"/proc/{pid}/fd/{number}"
        name, info, status = os.readlink(link), procfs.descriptor_info(pid, number), os.stat(link)
        flags = int(info["flags"], 8) & _KEPT_FLAGS
        position = int(info["pos"])
        if "lock" in info:
            raise _refused(pid, number, name, "a file with locks on it")
        if flags & O_ASYNC:
            raise _refused(pid, number, name, "a file that sends signals (O_ASYNC)")
        if not flags & os.O_PATH and _has_owner(pid, number):
            raise _refused(pid, number, name, "a file that sends signals (F_SETOWN, F_NOTIFY)")
        if stat.S_ISFIFO(status.st_mode) and status.st_ino in self.streams:
            role = self.streams[status.st_ino]
            return Description(Opened.STREAM, "", flags, role=role)
        if procfs.is_deleted(name) or status.st_nlink == 0:
            raise _refused(pid, number, name, "a file that was deleted while open")
        if int(info["mnt_id"]) not in self._mounts_of(pid) and _is_file(status.st_mode):
            raise _refused(pid, number, name, "a file that is on no mount of its container")
        if stat.S_ISREG(status.st_mode) and not name.startswith(_KERNEL_TREES):
            return Description(Opened.FILE, name, flags, position)
        if stat.S_ISDIR(status.st_mode) and not name.startswith(_KERNEL_TREES):
            if position:  # the file system's own: often a hash, which another has salted otherwise
                raise _refused(pid, number, name, "a directory that is being read")
            return Description(Opened.DIRECTORY, name, flags)
        if stat.S_ISCHR(status.st_mode) and _carried_device(status.st_rdev):
            return Description(Opened.DEVICE, name, flags, position, device=status.st_rdev)
        if stat.S_ISCHR(status.st_mode) and self._is_terminal(pid, number, status):
            return Description(Opened.TERMINAL, name, flags)
        raise _refused(pid, number, name, _kind(status.st_mode, name))

    def _mounts_of(self, pid: int) -> frozenset[int]:
        """Return the IDs of the mounts that a process sees."""
        if pid not in self._mounts:
            self._mounts[pid] = frozenset(mount.number for mount in read_mounts(pid))
        return self._mounts[pid]

    def _is_terminal(self, pid: int, number: int, status: os.stat_result) -> bool:
        if self.terminal is None:
            return False
        if ttys.is_own_device(status.st_rdev):
            return _device_behind(pid, number) == os.fstat(self.terminal.slave).st_rdev
        return (status.st_dev, status.st_ino) == self.terminal.identity()


def _is_file(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _device_behind(pid: int, number: int) -> int:
    """Return the number of the terminal that a process has opened as /dev/tty."""
    with _fetched(pid, number) as descriptor:
        return ttys.device(descriptor)


def _has_owner(pid: int, number: int) -> bool:
    """Tell whether somebody is to get signals from a file, or another signal than SIGIO.

    Who is told of changes in a directory (F_NOTIFY) is its owner, too (fs/notify/dnotify/dnotify.c,
    fcntl_dirnotify).
    """
    with _fetched(pid, number) as descriptor:
        _, owner = struct.unpack("=ii", fcntl.fcntl(descriptor, _F_GETOWN_EX, bytes(_OWNER_SIZE)))
        return bool(owner or fcntl.fcntl(descriptor, fcntl.F_GETSIG))


@contextmanager
def _fetched(pid: int, number: int) -> Iterator[int]:
    """Have a duplicate of another process's descriptor for the length of a scope."""
    pidfd = os.pidfd_open(pid)
    try:
        descriptor = handles.fetch_descriptor(pidfd, number)
    finally:
        os.close(pidfd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _carried_device(device: int) -> bool:
    return os.major(device) == _MEMORY_DEVICES and os.minor(device) in _CARRIED_MINORS


def _kind(mode: int, name: str) -> str:
    if name.startswith("anon_inode:"):
        return f"an object of the kind {name.removeprefix('anon_inode:').strip('[]')}"
    if name.startswith(_KERNEL_TREES):
        return "a file of the kernel"
    for test, what in (
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISFIFO, "a pipe that is none of the container's standard streams"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return what
    return "an object of an unknown kind"


def _refused(pid: int, number: int, name: str, what: str) -> NotCarried:
    return NotCarried(
        f"process {pid}: descriptor {number} is {what} ({name}), which cannot be carried",
        hint="this version carries regular files, directories, memory devices, and the "
        "container's standard streams or terminal",
    )


def read_descriptors(pid: int, descriptions: Descriptions) -> tuple[Descriptor, ...]:
    """Return the descriptors of a process; what they refer to is added to ``descriptions``.

    One that a process which runs closes meanwhile is left out.
    """
    looked = (_look(pid, number, descriptions) for number in procfs.descriptors(pid))
    found = tuple(each for each in looked if each is not None)
    if (files := len(descriptions.found)) > MAX_PASSED:
        raise NotCarried(
            f"process {pid} has {files} files open", hint=f"this version carries {MAX_PASSED}"
        )
    if taken := [each.number for each in found if each.number in OWN_NUMBERS]:
        raise NotCarried(
            f"process {pid} has descriptor {taken[0]}, of those which the move itself needs",
            hint=f"numbers from {OWN_NUMBERS.start} to {OWN_NUMBERS.stop - 1} cannot be carried",
        )
    return found


def _look(pid: int, number: int, descriptions: Descriptions) -> Descriptor | None:
    """Return a descriptor, None where it is closed by now; it may be another file meanwhile."""
    for again in reversed(range(_LOOKS)):
        try:
            index = descriptions.place(pid, number)
            flags = procfs.open_flags(pid, number)
            return Descriptor(number, index, bool(flags & O_CLOEXEC))
        except OSError as error:
            if error.errno not in _CLOSED or not again:
                raise
            if number not in procfs.descriptors(pid):
                break
    return None


def _is_same(pid: int, number: int, owner: int, other: int) -> bool:
    try:
        return handles.same_description(pid, number, owner, other)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return False  # one of the two is closed by now


def own_descriptors(pid: int, descriptions: Descriptions, stub: Stub) -> tuple[Descriptor, ...]:
    """Return the same as ``read_descriptors``, for a process that a stub is in.

    A terminal opened by TIOCGPTPEER with O_CLOEXEC shows that flag at each of its duplicates, so
    the process itself is asked.
    """
    found = read_descriptors(pid, descriptions)
    kinds = [descriptions.found[each.description].kind for each in found]
    if Opened.TERMINAL not in kinds:
        return found
    table = stub.table()
    for each in found:
        table.call(f"F_GETFD {each.number}", NR_FCNTL, each.number, _F_GETFD)
    flags = stub.run(table)
    return tuple(
        replace(each, close_on_exec=bool(flag)) for each, flag in zip(found, flags, strict=True)
    )
