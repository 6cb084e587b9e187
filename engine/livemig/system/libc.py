"""The C library by ctypes: one checked call, and raw system calls by number."""

from __future__ import annotations

import ctypes
import os
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long


def failed(what: str) -> OSError:
    """Return the OSError for the errno that the last call left, naming ``what``."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def syscall(number: int, *arguments: Any, what: str) -> int:
    """Make system call ``number``; an error is raised as OSError that names ``what``."""
    result: int = _syscall(ctypes.c_long(number), *arguments)
    if result == -1:
        raise failed(what)
    return result
