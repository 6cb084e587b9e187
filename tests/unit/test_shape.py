"""The shape of a body is known before it is decoded, and agrees with what the decoder sees."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livemig.errors import ProtocolError
from livemig.frames import FrameType, Header, decode
from livemig.shape import MAX_DEPTH, MAX_ITEMS, check_shape
from tests.unit.test_frames import BODIES, raw

LIMIT = 96 << 20  # bytes that decoding may take: MAX_ITEMS of the largest empty objects


def refusal(packed: bytes) -> str | None:
    try:
        check_shape(packed)
    except ValueError as error:
        return str(error)
    return None


@settings(max_examples=30)
@given(BODIES)
@example({"a": [b"x" * 70000, "y" * 300, 2**64 - 1, -(2**63), 1.5, None, True] * 20})
@example({str(number): number for number in range(70000)})
@example(list(range(70000)))
def test_what_can_be_packed_is_accepted_and_no_part_of_it(body: object) -> None:
    packed = msgpack.packb(body)
    assert refusal(packed) is None
    assert refusal(packed[:-1])
    assert refusal(packed + b"\xc0")


@given(st.binary(max_size=60))
def test_garbage_is_accepted_only_where_the_decoder_accepts_its_shape(data: bytes) -> None:
    try:
        msgpack.unpackb(data, raw=True, strict_map_key=False, ext_hook=lambda *_: None)
        whole = True
    except (ValueError, msgpack.UnpackException):
        whole = False
    except TypeError:  # a list or a map as a key
        return
    assert (refusal(data) is None) == whole


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


def test_levels_are_counted() -> None:
    assert refusal(nested(MAX_DEPTH)) is None
    assert refusal(nested(MAX_DEPTH + 1)) == f"it has more than {MAX_DEPTH} levels"


def test_items_are_counted_all_together() -> None:
    half = MAX_ITEMS // 2 - 1
    lists = b"\x92" + 2 * (b"\xdd" + half.to_bytes(4, "big") + b"\x80" * half)
    assert refusal(lists) is None
    more = b"\x93" + lists[1:] + b"\x91\xc0"
    assert refusal(more) == f"it has more than {MAX_ITEMS} items"


HOSTILE = {
    "claims": b"\xdd\x00\x0f\xff\xff" * 1000,
    "claims-that-fit": (b"\xdc\xff\xff" + b"\x80" * 65535) * 200,
    "nested-claims": b"\xdc\xff\xff" * 21000,
    "deep": nested(10**5),
    "wide": b"\xdd\x00\x0f\xff\xff" + b"\x80" * 0xFFFFF,
    "keys": b"\xdf\x00\x07\xff\xff" + b"\xa1a\x90" * 0x7FFFF,
}


def peak_memory() -> int:
    """Return the most bytes that this process had since the last call (proc(5), clear_refs)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return int(fields["VmHWM"].split()[0]) << 10


@pytest.mark.parametrize("kind", [FrameType.STATE, FrameType.PAGES])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_body_takes_much_memory(name: str, kind: FrameType) -> None:
    body = HOSTILE[name][: 65536 if kind is FrameType.PAGES else None]
    frame = raw(kind, body)
    peak_memory()
    before = peak_memory()
    header = Header(kind, len(body), 0, int.from_bytes(frame[16:24], "big"))
    fits = kind is FrameType.STATE and name in ("wide", "keys")
    with nullcontext() if fits else pytest.raises(ProtocolError, match=kind.name):
        decode(header, frame)
    assert peak_memory() - before < LIMIT
