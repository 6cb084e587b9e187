"""Dataclasses to the builtins that a frame's body holds, and back, with every field checked."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from livemig.errors import ProtocolError
from livemig.frames import Body

T = TypeVar("T")


def to_wire(obj: object) -> Body:
    """Return ``obj`` (a dataclass, or a container of them) as builtins that msgpack can carry.

    Bytes stay bytes, enumerations become their values, tuples and sets lists, keys strings.
    """
    return msgspec.to_builtins(obj, str_keys=True, builtin_types=(bytes, bytearray, memoryview))


def prepare(*classes: type) -> None:
    """Make now what ``from_wire`` needs to read each class: its first use takes milliseconds.

    For what is read while an application stands still.
    """
    for cls in classes:
        msgspec.msgpack.Decoder(cls)  # msgspec keeps what it learns of a class with the class


def from_wire(cls: type[T], data: Body) -> T:
    """Return ``data``, which a peer sent, as a ``cls``.

    Types are strict, fields without a default must be there, fields that ``cls`` does not know are
    ignored. Raises ProtocolError naming the class and the field that is wrong.
    """
    try:
        return msgspec.convert(data, cls, str_keys=True, builtin_types=(bytes,))
    except (msgspec.ValidationError, ValueError, TypeError) as exc:
        name = getattr(cls, "__name__", str(cls))
        raise ProtocolError(f"received a {name} that is not valid: {exc}") from exc
