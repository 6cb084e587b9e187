"""Mount namespaces: what is mounted in another one, and a view of it whose root can be written."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass

from livemig.system import procfs
from livemig.system.handles import CLONE_NEWNS, set_namespace
from livemig.system.libc import syscall
from livemig.system.numbers import NR_MOUNT, NR_UNSHARE

_MS_REMOUNT, _MS_BIND = 0x20, 0x1000
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A mount as a process sees it: where, what of its file system, and of which type that is.

    ``number`` is its ID, and ``read_only`` what was said of the mount, not of its file system.
    """

    number: int
    point: str
    root: str
    kind: str
    read_only: bool


def read_mounts(pid: int) -> list[Mount]:
    """Return the mounts of a process's namespace (/proc/PID/mountinfo in proc(5))."""
    lines = procfs.read_text(f"/proc/{pid}/mountinfo").split("\n")
    return [_mount(line.split(" ")) for line in lines if line]


def _mount(fields: list[str]) -> Mount:
    root, point = (_ESCAPED.sub(_unescaped, each) for each in fields[3:5])
    kind = fields[fields.index("-") + 1]
    return Mount(int(fields[0]), point, root, kind, "ro" in fields[5].split(","))


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def enter_writable_copy(namespace: int) -> None:
    """Enter a copy of a mount namespace whose root, read-only there, can be written here.

    The flag belongs to the mount, of which the copy has its own (mount(2), MS_REMOUNT with
    MS_BIND), so that nobody in the namespace itself can write for an instant. The calling process
    must have one thread; root and working directory become the namespace's root. Raises OSError,
    also where the file system itself is read-only.
    """
    set_namespace(namespace, CLONE_NEWNS)
    syscall(NR_UNSHARE, CLONE_NEWNS, what="copying the mount namespace")
    root, none = ctypes.c_char_p(b"/"), ctypes.c_char_p(None)
    what = "making the root writable in a copy of the mount namespace"
    syscall(NR_MOUNT, none, root, none, _MS_REMOUNT | _MS_BIND, none, what=what)
