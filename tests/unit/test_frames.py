"""Frames survive the way there and back however they are cut; hostile bytes are refused."""

from __future__ import annotations

import struct

import msgpack  # type: ignore[import-untyped]
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from livemig.errors import ProtocolError, VersionMismatch
from livemig.frames import (
    HEADER_SIZE,
    MAX_BODY,
    MAX_PAYLOAD,
    Assembler,
    Body,
    Frame,
    FrameType,
    decode,
    decode_header,
    encode,
)


def raw(
    kind: int = 1,
    body: bytes = b"\xc0",
    payload: bytes = b"",
    *,
    magic: bytes = b"LMIG",
    version: int = 1,
    flags: int = 0,
    sizes: tuple[int, int] | None = None,
) -> bytes:
    """Build a frame by hand, from PROTOCOL.md and not from the code under test."""
    body_size, payload_size = sizes or (len(body), len(payload))
    head = struct.pack(">4sBBHIIQ", magic, version, kind, flags, body_size, payload_size, 0)
    checksum = xxhash.xxh3_64_intdigest(head + body + payload)
    return head[:16] + struct.pack(">Q", checksum) + body + payload


def parse(data: bytes) -> Frame:
    return decode(decode_header(data), data)


def feed(assembler: Assembler, data: bytes, step: int) -> list[Frame]:
    """Give ``data`` to the assembler in pieces of ``step`` bytes, as readv would."""
    frames = []
    at = 0
    while at < len(data):
        taken = 0
        for buffer in assembler.buffers():
            piece = data[at : at + min(len(buffer), step - taken)]
            buffer[: len(piece)] = piece
            at += len(piece)
            taken += len(piece)
        frames += assembler.filled(taken)
    return frames


BODIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.sampled_from(FrameType), BODIES, st.lists(st.binary(), max_size=4))
def test_what_is_encoded_is_decoded(kind: FrameType, body: Body, parts: list[bytes]) -> None:
    frame = parse(b"".join(encode(kind, body, parts)))
    assert (frame.type, frame.body, bytes(frame.payload)) == (kind, body, b"".join(parts))


def test_bytes_are_those_of_the_specification() -> None:
    body = msgpack.packb({"a": 1})
    assert b"".join(encode(FrameType.PAGES, {"a": 1}, b"xyz")) == raw(31, body, b"xyz")


def test_payload_is_not_copied() -> None:
    payload = memoryview(bytearray(100))
    assert encode(FrameType.PAGES, None, [payload])[1] is payload


@given(
    st.lists(st.integers(0, 3000) | st.integers(30_000, 80_000), max_size=6),
    st.sampled_from([1000, 4096, 40_000, 1 << 20]) | st.integers(500, 100_000),
)
def test_frames_come_out_of_any_cut(sizes: list[int], step: int) -> None:
    payloads = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    data = b"".join(
        b"".join(encode(FrameType.PAGES, {"n": i}, payload)) for i, payload in enumerate(payloads)
    )
    assembler = Assembler()
    frames = feed(assembler, data, step)
    assert [frame.body["n"] for frame in frames] == list(range(len(sizes)))
    assert [bytes(frame.payload) for frame in frames] == payloads
    assert sum(frame.size for frame in frames) == len(data)
    assert not assembler.midway


def test_byte_by_byte() -> None:
    data = raw(3) + raw(31, b"\xc0", b"p" * 50)
    assembler = Assembler()
    frames = feed(assembler, data[:-1], 1)
    assert [frame.type for frame in frames] == [FrameType.PING]
    assert assembler.midway
    assert bytes(feed(assembler, data[-1:], 1)[0].payload) == b"p" * 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (raw(magic=b"Last"), "where a frame should start"),
        (raw(kind=99), "unknown type 99"),
        (raw(flags=1), "unknown flags 0x1"),
        (raw(sizes=(MAX_BODY + 1, 0)), "body of HELLO has 16777217 bytes"),
        (raw(sizes=(0, MAX_PAYLOAD + 1)), "payload of HELLO has 8388609 bytes"),
        (raw(body=b""), "body of HELLO cannot be read"),
        (raw(body=b"\xc1"), "body of HELLO cannot be read"),
        (raw(body=b"\xc0\xc0"), "body of HELLO cannot be read"),
        (raw(body=b"\x81\x01\x02"), "int is not allowed for map key"),
        (raw(body=b"\xa1\xff"), "body of HELLO cannot be read"),
        (raw(body=b"\xc7\x00\x05"), "extension type 5"),
        (raw(body=b"\xd4\x05\x00"), "body of HELLO cannot be read"),
        (raw(body=b"\x91" * 5000 + b"\xc0"), "body of HELLO cannot be read"),
        (raw(body=b"\xdd\xff\xff\xff\xff"), "body of HELLO cannot be read"),
        (raw(body=b"\xc0")[:-1] + b"\xc2", "wrong checksum"),
    ],
)
def test_hostile_bytes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        feed(Assembler(), data, len(data))


def test_another_version_is_named() -> None:
    with pytest.raises(VersionMismatch, match="version 2"):
        feed(Assembler(), raw(version=2), 1000)


@given(st.binary(min_size=HEADER_SIZE, max_size=200))
def test_garbage_never_gives_a_frame(data: bytes) -> None:
    with pytest.raises((ProtocolError, VersionMismatch)):
        feed(Assembler(), data, len(data))


@given(st.integers(0, 8 * 60 - 1))
def test_a_flipped_bit_is_found(bit: int) -> None:
    data = bytearray(raw(31, msgpack.packb({"pages": 3}), b"p" * 60))
    data[bit // 8] ^= 1 << bit % 8
    assembler = Assembler()
    try:
        frames = feed(assembler, bytes(data), len(data))
    except (ProtocolError, VersionMismatch):
        return
    assert frames == []  # the length grew: the frame waits for more
    assert assembler.midway


def test_what_is_too_large_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="payload of PAGES"):
        encode(FrameType.PAGES, None, [bytes(MAX_PAYLOAD), b"x"])
    with pytest.raises(ProtocolError, match="body of STATE"):
        encode(FrameType.STATE, bytes(MAX_BODY))


def test_names_of_files_are_any_bytes_and_other_text_is_utf8() -> None:
    body = {"path": "/tmp/caf\udce9"}
    assert parse(b"".join(encode(FrameType.STATE, body))).body == body
    with pytest.raises(ProtocolError, match="body of MOVE cannot be read"):
        parse(b"".join(encode(FrameType.MOVE, body)))
