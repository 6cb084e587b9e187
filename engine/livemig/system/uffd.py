"""userfaultfd: write-protection in asynchronous mode, PAGEMAP_SCAN (Linux 6.7 on), registration.

Source: include/uapi/linux/userfaultfd.h, include/uapi/linux/fs.h, and
Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from collections.abc import Iterator
from typing import NamedTuple

from livemig.system.libc import failed, libc, syscall
from livemig.system.memory import PAGE_SIZE
from livemig.system.numbers import NR_USERFAULTFD

CREATE_FLAGS = 0o2000000 | 0o4000 | 1  # O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY
_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_WRITEPROTECT = 0xC018AA06
_UFFDIO_CONTINUE = 0xC020AA07
_MODE_WP = 2
_WRITEPROTECT_WP = 1
FEATURE_EVENT_REMAP = 1 << 2
FEATURE_WP_ASYNC = 1 << 15

_PAGEMAP_SCAN = 0xC0606610
PAGE_IS_WRITTEN = 2
PAGE_IS_FILE = 4
PAGE_IS_PRESENT = 8
PAGE_IS_SWAPPED = 16
PAGE_IS_PFNZERO = 32
PM_SCAN_WP_MATCHING = 1
PM_SCAN_CHECK_WPASYNC = 2

_ioctl = libc.ioctl
_ioctl.restype = ctypes.c_int
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class Region(NamedTuple):
    """Pages [start, end) in bytes that share the categories asked for."""

    start: int
    end: int
    categories: int


class _PageRegion(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("categories", ctypes.c_uint64),
    )


class _ScanArg(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size flags start end walk_end vec vec_len max_pages category_inverted "
            "category_mask category_anyof_mask return_mask"
        ).split()
    )


def create() -> int:
    """Return a userfaultfd of this very process; OSError where the kernel gives none."""
    return syscall(NR_USERFAULTFD, CREATE_FLAGS, what="userfaultfd")


def enable(descriptor: int, features: int = 0) -> None:
    """Agree on features; OSError (EINVAL) where the kernel lacks one."""
    fcntl.ioctl(descriptor, _UFFDIO_API, bytearray(struct.pack("=QQQ", _API, features, 0)))


def is_moving(descriptor: int) -> bool:
    """Tell whether a move (mremap(2)) of registered memory has begun whose event is still unread.

    Who moves memory says so before that can be seen, and takes it back when its event was read
    (mm/mremap.c, move_vma; fs/userfaultfd.c, userfaultfd_event_wait_completion).
    """
    try:
        fcntl.ioctl(descriptor, _UFFDIO_WRITEPROTECT, bytearray(24))  # of no memory at all
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EINVAL):
            return error.errno == errno.EAGAIN
        raise
    raise OSError(errno.EPROTO, "UFFDIO_WRITEPROTECT took no memory for some")


def register(descriptor: int, start: int, end: int) -> None:
    """Take [start, end) for write-protection, none of it protected yet; again changes nothing."""
    argument = bytearray(struct.pack("=QQQQ", start, end - start, _MODE_WP, 0))
    fcntl.ioctl(descriptor, _UFFDIO_REGISTER, argument)


def protect(descriptor: int, start: int, end: int) -> None:
    """Write-protect the pages of [start, end), which is registered, whatever they look like.

    BlockingIOError while memory is being moved (``is_moving``).
    """
    argument = bytearray(struct.pack("=QQQ", start, end - start, _WRITEPROTECT_WP))
    fcntl.ioctl(descriptor, _UFFDIO_WRITEPROTECT, argument)


def is_registered(descriptor: int, address: int) -> bool:
    """Tell whether the private anonymous mapping at ``address`` is registered.

    UFFDIO_CONTINUE is for shared memory alone, so it does nothing here. The kernel looks for the
    registration before it refuses the kind (mm/userfaultfd.c, __mcopy_atomic in 6.1).
    """
    argument = bytearray(struct.pack("=QQQq", address, PAGE_SIZE, 0, 0))
    try:
        fcntl.ioctl(descriptor, _UFFDIO_CONTINUE, argument)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return error.errno == errno.EINVAL
        raise
    raise OSError(errno.EPROTO, f"UFFDIO_CONTINUE took the memory at {address:#x}")


class Scanner:
    """PAGEMAP_SCAN on one process, with a vector that is used again for each scan."""

    def __init__(self, pagemap: int, regions: int = 8192) -> None:
        self._pagemap = pagemap
        self._vector = (_PageRegion * regions)()

    def scan(
        self,
        start: int,
        end: int,
        *,
        required: int = 0,
        inverted: int = 0,
        any_of: int = 0,
        returned: int = 0,
        protect: bool = False,
    ) -> Iterator[Region]:
        """Yield the regions of [start, end) whose pages have the wanted categories.

        ``required`` all must hold (those in ``inverted`` must not), ``any_of`` one must; with
        ``protect`` the matching pages are write-protected again in the same step, so that no write
        falls between. OSError as the kernel gives it: with ``protect`` it is PermissionError where
        the memory is not registered.
        """
        argument = _ScanArg(
            size=ctypes.sizeof(_ScanArg),
            flags=PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC if protect else 0,
            start=start,
            end=end,
            vec=ctypes.addressof(self._vector),
            vec_len=len(self._vector),
            category_inverted=inverted,
            category_mask=required | inverted,
            category_anyof_mask=any_of,
            return_mask=returned,
        )
        while argument.start < end:
            count = _ioctl(self._pagemap, _PAGEMAP_SCAN, ctypes.addressof(argument))
            if count < 0:
                raise failed(f"scanning pages at {argument.start:#x}")
            for index in range(count):
                region = self._vector[index]
                yield Region(region.start, region.end, region.categories)
            argument.start = argument.walk_end
