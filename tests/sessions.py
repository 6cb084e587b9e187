"""Frames of real sessions, taken apart and put together by hand from PROTOCOL.md, and mutations.

What is mutated has its checksum repaired, so that it gets past the bytes to what they mean.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgpack  # type: ignore[import-untyped]
import xxhash

from tests.fuzzing import mutated

_HEADER = struct.Struct(">4sBBHIIQ")
_KINDS = (*range(1, 7), *range(10, 14), *range(20, 38), *range(40, 44), *range(50, 57), 99)
_DEEP = 5000
LEAVES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64 - 1,
    -(2**63),
    1.5,
    float("nan"),
    "",
    "..",
    "../../../../etc/passwd",
    "/proc/self/mem",
    "a\0b",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    "x" * 100_000,
    b"",
    b"\xff" * 70_000,
    [],
    {},
    [[]] * 1000,
    {"": 1},
)


@dataclass(frozen=True)
class Raw:
    """One frame: its type as a number, body and payload as bytes."""

    kind: int
    body: bytes = b"\xc0"
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return its bytes, checksum included."""
        head = _HEADER.pack(b"LMIG", 1, self.kind, 0, len(self.body), len(self.payload), 0)
        checksum = xxhash.xxh3_64_intdigest(head + self.body + self.payload)
        return head[:16] + struct.pack(">Q", checksum) + self.body + self.payload


def length(data: bytes | bytearray) -> int:
    """Return the length of the frame that ``data`` begins with, 0 while that is not known."""
    if len(data) < _HEADER.size:
        return 0
    _, _, _, _, body, payload, _ = _HEADER.unpack_from(data)
    return int(_HEADER.size + body + payload)


def split(data: bytes) -> Iterator[Raw]:
    """Yield the frames of a recorded direction."""
    while data:
        _, _, kind, _, body, payload, _ = _HEADER.unpack_from(data)
        end = _HEADER.size + body
        yield Raw(kind, data[_HEADER.size : end], data[end : end + payload])
        data = data[end + payload :]


def mutated_frame(chance: random.Random, frame: Raw) -> Raw:
    """Return a frame that differs in its type, its body or its payload."""
    while (found := _maybe_mutated(chance, frame)) == frame:
        pass
    return found


def _maybe_mutated(chance: random.Random, frame: Raw) -> Raw:
    what = chance.randrange(8)
    if what == 0:
        return replace(frame, kind=chance.choice(_KINDS))
    if what == 1:
        return replace(frame, payload=mutated(chance, frame.payload or b"x"))
    if what == 2:
        return replace(frame, body=mutated(chance, frame.body))
    if what == 3:
        return replace(frame, body=b"\x91" * chance.choice((20, 40, _DEEP)) + frame.body)
    try:
        body = msgpack.unpackb(frame.body, strict_map_key=False)
        return replace(frame, body=_pack(_other(chance, body)))
    except (ValueError, TypeError, msgpack.UnpackException):  # it was mutated before
        return replace(frame, body=mutated(chance, frame.body or b"x"))


def _pack(body: Any) -> bytes:
    packed: bytes = msgpack.packb(body)
    return packed


def _other(chance: random.Random, value: Any) -> Any:
    """Return a value in which one leaf or branch is another."""
    if isinstance(value, dict) and value and chance.random() < 0.95:
        found, key = dict(value), chance.choice(list(value))
        if chance.random() < 0.05:
            del found[key]
        else:
            found[key] = _other(chance, value[key])
        return found
    if isinstance(value, list) and value and chance.random() < 0.9:
        place, found_list = chance.randrange(len(value)), list(value)
        if chance.random() < 0.1:
            found_list[place:place] = value[: chance.choice((1, 300))]
        else:
            found_list[place] = _other(chance, value[place])
        return found_list
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.6:
        other = value + chance.choice((-4096, -1, 1, 4096, 2**32, -value * 2, 1 << 46))
        return max(min(other, 2**64 - 1), -(2**63))
    if isinstance(value, bytes) and value and chance.random() < 0.6:
        return mutated(chance, value)
    return chance.choice(LEAVES)


def mutated_session(chance: random.Random, frames: list[Raw]) -> bytes:
    """Return the bytes of a session with a few frames changed, lost, doubled or out of order."""
    found = list(frames)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place, what = chance.randrange(len(found)), chance.randrange(10)
        if what == 0 and len(found) > 1:
            del found[place]
        elif what == 1:
            found.insert(chance.randrange(len(found)), found[place])
        elif what == 2:
            other = chance.randrange(len(found))
            found[place], found[other] = found[other], found[place]
        elif what == 3:
            found[place] = replace(found[place], payload=chance.choice(frames).payload)
        else:
            found[place] = mutated_frame(chance, found[place])
    data = b"".join(frame.encode() for frame in found)
    # A share without repair: what a broken line would do.
    return mutated(chance, data) if chance.random() < 0.1 else data
