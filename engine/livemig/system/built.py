"""What `make stub` builds of the C files beside this one."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from livemig.errors import InternalError


@cache
def library(name: str) -> ctypes.CDLL:
    """Return the library that is built of ``name``.c; InternalError where it was not."""
    path = Path(__file__).with_name(f"livemig-{name}.so")
    if not path.exists():
        raise InternalError(f"{path} is missing", hint="build it with `make stub`")
    return ctypes.CDLL(str(path))
