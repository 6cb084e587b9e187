"""The compiled stub: its bytes and its entry."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

from livemig.errors import InternalError

MAGIC = 0x62757473
VERSION = 1
_HERE = Path(__file__).parent


def hold_path() -> Path:
    """Return the path of livemig-hold, the program that a held container starts with."""
    return _built("livemig-hold")


@cache
def code() -> tuple[bytes, int]:
    """Return the stub's bytes and the offset of its entry."""
    blob = _built("stub.bin").read_bytes()
    magic, version, entry, _ = struct.unpack_from("=IIII", blob)
    if (magic, version) != (MAGIC, VERSION):
        raise InternalError(f"the stub has version {version}, not {VERSION}", hint="make stub")
    return blob, entry


def _built(name: str) -> Path:
    path = _HERE / name
    if not path.exists():
        raise InternalError(f"{path} is missing", hint="build it with `make stub`")
    return path
