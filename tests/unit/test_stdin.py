"""Unread input is read without being taken, and what comes later is passed on, once."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator

import pytest

from livemig.errors import TransferError
from livemig.model import Role
from livemig.stdin import UnreadInput, feed, find_stream
from tests.unit.leftovers import nothing_left

pytestmark = [pytest.mark.usefixtures(nothing_left.__name__), pytest.mark.timeout(30)]
SECOND = 5.0


class Pipe:
    """A container's standard input: Docker writes, the container reads."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK)

    def write(self, data: bytes) -> None:
        assert os.write(self.writer, data) == len(data)

    def end(self) -> None:
        """Nobody writes any more."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        self.end()
        os.close(self.reader)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    found = Pipe()
    yield found
    found.close()


@pytest.fixture
def unread(pipe: Pipe) -> Iterator[UnreadInput]:
    path = f"/proc/self/fd/{pipe.reader}"
    found = UnreadInput(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    yield found
    found.close()


def test_an_empty_pipe_holds_nothing(unread: UnreadInput) -> None:
    assert unread.peek() == (b"", False)


def test_peeking_takes_nothing(pipe: Pipe, unread: UnreadInput) -> None:
    pipe.write(b"one\n")
    pipe.write(b"two\n")
    assert unread.peek() == (b"one\ntwo\n", False)
    assert unread.peek() == (b"one\ntwo\n", False)
    assert os.read(pipe.reader, 100) == b"one\ntwo\n"


def test_the_end_is_told_with_what_is_left(pipe: Pipe, unread: UnreadInput) -> None:
    pipe.write(b"last")
    pipe.end()
    assert unread.peek() == (b"last", True)
    assert list(unread.rest(SECOND)) == []


def test_a_full_pipe_is_read_whole(pipe: Pipe, unread: UnreadInput) -> None:
    data = os.urandom(64 << 10)
    pipe.write(data)
    assert unread.peek() == (data, False)


def test_many_small_writes_are_read_whole(pipe: Pipe, unread: UnreadInput) -> None:
    lines = [b"%d\n" % number for number in range(3000)]
    for line in lines:
        pipe.write(line)
    assert unread.peek()[0] == b"".join(lines)


def test_more_than_can_be_peeked_comes_with_the_rest(
    pipe: Pipe, unread: UnreadInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livemig.stdin._ROOM", 8 << 10)
    data = os.urandom(40 << 10)
    pipe.write(data)
    first, ended = unread.peek()
    assert (first, ended) == (data[: 8 << 10], False)
    pipe.end()
    assert b"".join(unread.rest(SECOND)) == data[8 << 10 :]


def test_only_what_came_after_the_peek_is_passed_on(pipe: Pipe, unread: UnreadInput) -> None:
    pipe.write(b"before")
    assert unread.peek()[0] == b"before"
    pipe.write(b"after")
    pipe.end()
    assert b"".join(unread.rest(SECOND)) == b"after"


def test_input_is_passed_on_while_it_comes(pipe: Pipe, unread: UnreadInput) -> None:
    pipe.write(b"before")
    unread.peek()
    rest = unread.rest(SECOND)
    found = []
    for word in (b"one", b"two"):
        pipe.write(word)
        found.append(next(rest))
    pipe.end()
    assert [*found, *rest] == [b"one", b"two"]


def test_a_writer_that_stays_is_an_error_after_the_time_given(unread: UnreadInput) -> None:
    unread.peek()
    with pytest.raises(TransferError, match="not closed"):
        list(unread.rest(0.05))


def test_all_is_fed_to_a_reader_that_is_slow(pipe: Pipe) -> None:
    data = os.urandom(300 << 10)
    taken = bytearray()

    def take() -> None:
        os.set_blocking(pipe.reader, True)
        while len(taken) < len(data):
            taken.extend(os.read(pipe.reader, 10_000))

    reader = threading.Thread(target=take)
    reader.start()
    try:
        assert feed(pipe.writer, data, SECOND) == 0
    finally:
        pipe.end()
        reader.join(SECOND)
    assert bytes(taken) == data


def test_what_finds_no_room_is_counted(pipe: Pipe) -> None:
    assert feed(pipe.writer, bytes(100 << 10), 0.05) == 36 << 10


def test_a_reader_that_is_gone_is_told(pipe: Pipe) -> None:
    reader = pipe.reader
    pipe.reader = os.dup(pipe.writer)
    os.close(reader)
    assert feed(pipe.writer, b"lost", SECOND) == 4


@pytest.fixture
def reading(pipe: Pipe) -> Iterator[int]:
    """Yield a process that has the pipe as its standard error."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stderr=pipe.reader) as child:
        yield child.pid
        child.communicate(timeout=SECOND)


def test_the_standard_input_is_found_whatever_its_number(pipe: Pipe, reading: int) -> None:
    inode = os.fstat(pipe.reader).st_ino
    found = find_stream(reading, {inode: Role.STDIN, 1: Role.STDOUT})
    assert found is not None
    try:
        assert os.fstat(found).st_ino == inode
        assert not os.get_blocking(found)
    finally:
        os.close(found)


def test_a_descriptor_that_was_closed_meanwhile_is_passed_by(
    pipe: Pipe, reading: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livemig.stdin.procfs.descriptors", lambda _: [2, 1000])
    assert find_stream(reading, {os.fstat(pipe.writer).st_ino + 1: Role.STDIN}) is None


def test_no_standard_input_is_no_error(pipe: Pipe, reading: int) -> None:
    inode = os.fstat(pipe.reader).st_ino
    assert find_stream(reading, {inode: Role.STDOUT}) is None
