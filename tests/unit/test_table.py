"""A table of system calls is packed as stub.h says, and a call that failed is named."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livemig.errors import InternalError
from livemig.stub import CallFailed, Table
from livemig.stub.blob import MAGIC, VERSION, code, hold_path
from livemig.stub.table import BUFFERS_SIZE, CALLS_SIZE

BASE = 0x180_0000_1000
HEADER, CALL = 32, 72  # the static assertions of stub.h
WORD = st.integers(-(1 << 63), (1 << 64) - 1)


def answered(table: Table, results: list[int], done: int | None = None) -> bytes:
    """Return a table's bytes as the stub leaves them."""
    data = bytearray(dict(table.encode(0, 23))[BASE])
    struct.pack_into("=I", data, 12, len(results) if done is None else done)
    for index, result in enumerate(results):
        struct.pack_into("=q", data, HEADER + index * CALL + 56, result)
    return bytes(data)


@given(st.lists(st.tuples(st.integers(0, 500), st.lists(WORD, max_size=6), st.booleans())))
def test_calls_lie_where_the_stub_reads_them(calls: list[tuple[int, list[int], bool]]) -> None:
    table = Table(BASE)
    for index, (number, words, may_fail) in enumerate(calls):
        assert table.call("one", number, *words, may_fail=may_fail) == index
    ((address, data),) = table.encode(0x7000, 17)
    assert address == BASE
    assert len(data) == table.size() == HEADER + CALL * len(calls)
    head = struct.unpack_from("=IIIIQII", data)
    assert head == (MAGIC, VERSION, len(calls), 0, 0x7000, 17, 0)
    for index, (number, words, may_fail) in enumerate(calls):
        found = struct.unpack_from("=Q6QqQ", data, HEADER + index * CALL)
        padded = [word & ((1 << 64) - 1) for word in words] + [0] * (6 - len(words))
        assert found == (number, *padded, 0, int(may_fail))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=9))
def test_buffers_lie_where_their_addresses_say(buffers: list[bytes]) -> None:
    table = Table(BASE)
    places = [table.place(data) for data in buffers]
    encoded = dict(table.encode(0, 23))
    area = encoded.get(BASE + CALLS_SIZE, b"")
    for place, data in zip(places, buffers, strict=True):
        assert place % 16 == 0
        start = place - BASE - CALLS_SIZE
        assert area[start : start + len(data)] == data
    assert table.room(8) % 16 == 0


def test_results_come_back_in_order() -> None:
    table = Table(BASE)
    for name in ("getpid", "getuid", "brk"):
        table.call(name, 1)
    assert table.decode(answered(table, [7, 0, 1 << 40])) == [7, 0, 1 << 40]


def test_a_failed_call_is_named_with_its_error() -> None:
    table = Table(BASE)
    table.call("getpid", 39)
    table.call("close 999", 3, 999)
    table.call("getuid", 102)
    with pytest.raises(CallFailed, match=r"^\[Errno 9\] close 999: .*EBADF") as caught:
        table.decode(answered(table, [7, -errno.EBADF, 0], done=1))
    assert caught.value.errno == errno.EBADF


def test_an_error_without_a_name_is_told_by_its_number() -> None:
    table = Table(BASE)
    table.call("odd", 3)
    with pytest.raises(CallFailed, match=r"odd: .*4000"):
        table.decode(answered(table, [-4000], done=0))


def test_a_call_that_may_fail_returns_its_error() -> None:
    table = Table(BASE)
    table.call("close", 3, 999, may_fail=True)
    assert table.decode(answered(table, [-errno.EBADF])) == [-errno.EBADF]


def test_a_table_that_is_too_long_is_refused() -> None:
    table = Table(BASE)
    room = (CALLS_SIZE - HEADER) // CALL
    for _ in range(room):
        table.call("getpid", 39)
    with pytest.raises(InternalError, match="too long"):
        table.call("getpid", 39)


def test_buffers_that_are_too_large_are_refused() -> None:
    table = Table(BASE)
    table.room(BUFFERS_SIZE)
    with pytest.raises(InternalError, match="too large"):
        table.room(1)


def test_the_blob_fits_its_page_and_the_hold_program_is_there() -> None:
    blob, entry = code()
    assert 16 <= entry < len(blob) <= 4096
    assert hold_path().read_bytes()[:4] == b"\x7fELF"
