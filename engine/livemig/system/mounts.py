"""Mount namespaces: a view of another one in which its root can be written."""

from __future__ import annotations

import ctypes

from livemig.system.handles import CLONE_NEWNS, set_namespace
from livemig.system.libc import syscall
from livemig.system.numbers import NR_MOUNT, NR_UNSHARE

_MS_REMOUNT, _MS_BIND = 0x20, 0x1000


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
