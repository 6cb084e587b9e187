"""Where this CPU keeps the registers that XSAVE saves, in its standard format (xsave.c asks it)."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

from livemig.system.built import library

_EXTENDED, _COMPONENTS = 2, 63


class Component(NamedTuple):
    """A component of the state by its bit in XCR0, with its place in bytes."""

    number: int
    offset: int
    size: int


class _Place(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint32), ("size", ctypes.c_uint32))


@cache
def components() -> tuple[Component, ...]:
    """Return the components behind the header that the kernel has enabled, by number."""
    ask = library("xsave").livemig_components
    ask.restype = ctypes.c_uint64
    places = (_Place * _COMPONENTS)()
    features = ask(places)
    return tuple(
        Component(number, places[number].offset, places[number].size)
        for number in range(_EXTENDED, _COMPONENTS)
        if features >> number & 1
    )
