"""Dataclasses cross the wire unchanged, and what does not fit is named."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest

from livemig.errors import ProtocolError
from livemig.frames import Body, FrameType, decode, decode_header, encode
from livemig.wire import from_wire, prepare, to_wire


class Kind(enum.Enum):
    """A value of an enumeration."""

    FILE = "file"


@dataclass(frozen=True)
class Inner:
    """One of several."""

    start: int
    data: bytes = b""


@dataclass(frozen=True)
class Outer:
    """Holds what the engine's dataclasses hold."""

    items: list[Inner]
    by_number: dict[int, Inner]
    pair: tuple[int, str]
    kind: Kind
    maybe: Inner | None = None
    flags: frozenset[str] = field(default_factory=frozenset)


SAMPLE = Outer(
    [Inner(2**64 - 1, b"\x00\xff")], {3: Inner(-1)}, (1, "x"), Kind.FILE, None, frozenset({"a"})
)


def test_there_and_back_through_a_frame() -> None:
    data = b"".join(encode(FrameType.STATE, to_wire(SAMPLE)))
    assert from_wire(Outer, decode(decode_header(data), data).body) == SAMPLE


def test_lists_of_dataclasses() -> None:
    assert from_wire(list[Inner], to_wire([Inner(1), Inner(2)])) == [Inner(1), Inner(2)]


def test_fields_of_a_later_version_are_ignored() -> None:
    assert from_wire(Inner, {"start": 1, "colour": "red"}) == Inner(1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"start": "1"}, r"a Inner that is not valid: .*`\$\.start`"),
        ({"start": True}, r"`\$\.start`"),
        ({"start": 1.5}, r"`\$\.start`"),
        ({"start": 1, "data": "text"}, r"`\$\.data`"),
        ({}, "missing required field `start`"),
        (None, "Expected `object`, got `null`"),
        ([1, b""], "Expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit_is_named(data: Body, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        from_wire(Inner, data)


def test_what_is_prepared_is_read_at_once() -> None:
    """The first use of a class takes many times as long as the next."""
    prepare(prepared := make_dataclass("Prepared", _MANY))
    fresh = make_dataclass("Fresh", _MANY)
    assert _seconds(lambda: from_wire(prepared, {})) < _seconds(lambda: from_wire(fresh, {})) / 5


_MANY: list[tuple[str, type, Any]] = [
    (f"field{number}", dict[str, list[int]], field(default_factory=dict)) for number in range(500)
]


def _seconds(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started
