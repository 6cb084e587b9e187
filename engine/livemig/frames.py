"""Frames: what two peers say to each other, as bytes. PROTOCOL.md is the specification.

A frame is a header of 24 bytes (big-endian: magic, version, type, flags, length of the body,
length of the payload, checksum), a msgpack body and a raw payload. The checksum is XXH3-64 over
the header, with zero in the checksum's place, the body and the payload.

Everything that is decoded here counts as hostile: sizes are bounded before memory is taken for
them, types are checked, and what does not fit is a ProtocolError.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import msgpack  # type: ignore[import-untyped]
import xxhash

from livemig.errors import ProtocolError, VersionMismatch
from livemig.shape import MAX_ITEMS, check_shape

MAGIC = b"LMIG"
VERSION = 1
HEADER_SIZE = 24
MAX_BODY = 16 << 20
MAX_PAGES_BODY = 64 << 10
MAX_PAYLOAD = 8 << 20

Buffer: TypeAlias = bytes | bytearray | memoryview
Body: TypeAlias = Any
"""What msgpack carries: None, bool, int, float, str, bytes, lists, and maps with str keys."""

_HEADER = struct.Struct(">4sBBHIIQ")
_CHECKSUM = struct.Struct(">Q")
_CHECKSUM_AT = 16
_NO_CHECKSUM = bytes(8)
_STAGING = 32 << 10
_MAX_RUNS = 256
_ESCAPE = "surrogateescape"
_OBJECT_SIZE = 72  # bytes that one byte of a body takes when decoded, at most: an empty map


class FrameType(IntEnum):
    """What a frame says; the numbers are the protocol's."""

    HELLO = 1
    ERROR = 2
    PING = 3
    PONG = 4
    ABORT = 5
    ABORTED = 6
    MOVE = 10
    PROGRESS = 11
    SUMMARY = 12
    CANCEL = 13
    PREPARE = 20
    PREPARED = 21
    IMAGE = 22
    IMAGE_DONE = 23
    CREATE = 24
    CREATED = 25
    ROOTFS = 26
    ROOTFS_DONE = 27
    HOLD = 28
    HELD = 29
    LAYOUT = 30
    PAGES = 31
    ROUND_END = 32
    FREEZE = 33
    STATE = 34
    STDIN = 35
    COMMIT = 36
    FINISH = 37
    ROUND_DONE = 40
    READY = 41
    RUNNING = 42
    FINISHED = 43
    RESUME = 50
    STATUS = 51
    QUERY = 52
    REPORT = 53
    RECOVER = 54
    RECOVERED = 55
    SETTLE = 56


_NAMING = frozenset(
    {
        *(FrameType.LAYOUT, FrameType.STATE, FrameType.ERROR, FrameType.PROGRESS),
        *(FrameType.SUMMARY, FrameType.REPORT, FrameType.RECOVERED, FrameType.FINISHED),
    }
)
"""What names files, or tells of them, whose names are any bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was received.

    ``body`` is what msgpack carried, ``payload`` is raw, ``size`` is that of all in bytes.
    """

    type: FrameType
    body: Body
    payload: bytes | memoryview = b""
    size: int = 0

    @property
    def memory(self) -> int:
        """Return the bytes that the frame takes in memory, at most."""
        return self.size + _OBJECT_SIZE * (self.size - len(self.payload))


@dataclass(frozen=True, slots=True)
class Header:
    """The first 24 bytes of a frame, checked but for the checksum."""

    type: FrameType
    body_size: int
    payload_size: int
    checksum: int

    @property
    def frame_size(self) -> int:
        """Return the size of the whole frame in bytes."""
        return HEADER_SIZE + self.body_size + self.payload_size


def pack(body: Body) -> bytes:
    """Return a body as bytes; those of a name that is no text go as they are (surrogateescape)."""
    return bytes(msgpack.packb(body, use_bin_type=True, unicode_errors=_ESCAPE))


def encode(
    kind: FrameType, body: Body = None, payload: Buffer | Sequence[Buffer] = b""
) -> list[Buffer]:
    """Return the frame as buffers to be written one after the other; payloads are not copied.

    Raises ProtocolError where body or payload exceed their limits.
    """
    parts = [payload] if isinstance(payload, (bytes, bytearray, memoryview)) else list(payload)
    packed = pack(body)
    payload_size = sum(memoryview(part).nbytes for part in parts)
    _check_sizes(kind, len(packed), payload_size)
    head = bytearray(
        _HEADER.pack(MAGIC, VERSION, kind, 0, len(packed), payload_size, 0) + packed,
    )
    digest = xxhash.xxh3_64(head)
    for part in parts:
        digest.update(part)
    _CHECKSUM.pack_into(head, _CHECKSUM_AT, digest.intdigest())
    return [head, *(part for part in parts if memoryview(part).nbytes)]


def decode_header(data: Buffer) -> Header:
    """Return the header that ``data`` starts with; ``data`` holds at least 24 bytes."""
    magic, version, kind, flags, body_size, payload_size, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(
            f"received {bytes(data[:24])!r} where a frame should start",
            hint="something on the way prints into the connection (a login script?)",
        )
    if version != VERSION:
        raise VersionMismatch(f"received a frame of version {version}, this side speaks {VERSION}")
    try:
        known = FrameType(kind)
    except ValueError:
        raise ProtocolError(f"received a frame of unknown type {kind}") from None
    if flags:
        raise ProtocolError(f"received a {known.name} frame with unknown flags {flags:#x}")
    _check_sizes(known, body_size, payload_size)
    return Header(known, body_size, payload_size, checksum)


def decode(header: Header, data: Buffer) -> Frame:
    """Return the frame in ``data`` (header included), whose payload is a view into ``data``.

    Raises ProtocolError where the checksum or the body is wrong.
    """
    view = memoryview(data)
    digest = xxhash.xxh3_64(view[:_CHECKSUM_AT])
    digest.update(_NO_CHECKSUM)
    digest.update(view[HEADER_SIZE:])
    if digest.intdigest() != header.checksum:
        raise ProtocolError(f"received a {header.type.name} frame with a wrong checksum")
    end = HEADER_SIZE + header.body_size
    body = _unpack(header, view[HEADER_SIZE:end])
    return Frame(header.type, body, view[end:].toreadonly(), header.frame_size)


class Assembler:
    """Turns a stream of bytes into frames: read into ``buffers()``, then say ``filled(n)``.

    A frame that is larger than the staging buffer gets memory of its own as soon as its header is
    known, and is read into its final place.
    """

    def __init__(self) -> None:
        self._staging = memoryview(bytearray(_STAGING))
        self._start = 0
        self._end = 0
        self._header: Header | None = None
        self._large = memoryview(b"")
        self._got = 0

    def buffers(self) -> list[memoryview]:
        """Return where the next bytes go, for one readv(2)."""
        if self._header is not None:
            return [self._large[self._got :], self._staging]
        return [self._staging[self._end :]]

    def filled(self, count: int) -> list[Frame]:
        """Return the frames that are complete now that ``count`` bytes more were read."""
        frames: list[Frame] = []
        if self._header is not None:
            taken = min(count, len(self._large) - self._got)
            self._got += taken
            count -= taken
            if self._got < len(self._large):
                return frames
            frames.append(decode(self._header, self._large))
            self._header, self._large = None, memoryview(b"")
        self._end += count
        while self._end - self._start >= HEADER_SIZE and self._next(frames):
            pass
        self._compact()
        return frames

    @property
    def midway(self) -> bool:
        """Say whether a frame has begun that is not complete."""
        return self._header is not None or self._end > self._start

    def _next(self, frames: list[Frame]) -> bool:
        """Take one frame from the staging buffer, or begin a large one; say whether to go on."""
        staged = self._staging[self._start : self._end]
        header = decode_header(staged)
        size = header.frame_size
        if size <= len(staged):
            frames.append(decode(header, bytes(staged[:size])))
            self._start += size
            return True
        if size > _STAGING:
            self._header, self._large = header, memoryview(bytearray(size))
            self._got = len(staged)
            self._large[: self._got] = staged
            self._start = self._end = 0
        return False

    def _compact(self) -> None:
        left = bytes(self._staging[self._start : self._end])
        self._staging[: len(left)] = left
        self._start, self._end = 0, len(left)


def _check_sizes(kind: FrameType, body: int, payload: int) -> None:
    name, limit = kind.name, MAX_PAGES_BODY if kind is FrameType.PAGES else MAX_BODY
    if body > limit:
        raise ProtocolError(f"body of {name} has {body} bytes, at most {limit} are allowed")
    if payload > MAX_PAYLOAD:
        raise ProtocolError(
            f"payload of {name} has {payload} bytes, at most {MAX_PAYLOAD} are allowed"
        )


def _unpack(header: Header, packed: memoryview) -> Body:
    # PAGES are many, and so bounded that they can do no harm.
    flat = header.type is FrameType.PAGES
    most = _MAX_RUNS if flat else min(MAX_ITEMS, header.body_size)
    try:
        if not flat:
            check_shape(packed)
        return msgpack.unpackb(
            packed,
            raw=False,
            unicode_errors=_ESCAPE if header.type in _NAMING else "strict",
            strict_map_key=True,
            ext_hook=_no_extension,
            max_array_len=most,
            max_map_len=most,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        reason = str(exc) or type(exc).__name__
        raise ProtocolError(f"body of {header.type.name} cannot be read: {reason}") from exc


def _no_extension(code: int, _data: bytes) -> Body:
    raise ValueError(f"extension type {code}")
