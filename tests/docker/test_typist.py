"""The typist's books: right when the recorder is, and not to be deceived when it is not."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import termios
import time
from collections.abc import Iterator

import pytest

from tests import pace
from tests.attachment import Attachment
from tests.docker.killers import engines
from tests.hosts import RECORDER, Host, load_images
from tests.typist import Typist, TypistError

pytestmark = pytest.mark.docker

Pair = tuple[Host, Host]
NAME = "typed"


@pytest.fixture
def pair(hosts: Pair, recorder_image: str) -> Iterator[Pair]:
    assert recorder_image
    _start(hosts[0])
    yield hosts
    for host in hosts:
        host.run(["docker", "rm", "-f", NAME], check=False)


def _start(host: Host, *options: str) -> None:
    host.run(["docker", "run", "-d", "-i", "--name", NAME, RECORDER, *options])


def _pid(host: Host) -> int:
    inner = host.run(["docker", "inspect", "-f", "{{.State.Pid}}", NAME]).stdout
    return host.outer_pid(int(inner))


def test_what_is_typed_is_recorded(pair: Pair) -> None:
    with Typist(pair, NAME, every=0) as typist:
        typist.wait_for(500)
        report = typist.verify()
        typist.wait_for(100)
    assert "heap=intact" in report
    assert typist.acked == list(range(1, len(typist.acked) + 1))
    assert (typist.host, typist.moves) == (pair[0], 0)


def test_it_waits_while_the_recorder_is_paused(pair: Pair) -> None:
    with Typist(pair, NAME) as typist:
        typist.wait_for(10)
        pair[0].run(["docker", "pause", NAME])
        pair[0].run(["sleep", "0.3"])
        pair[0].run(["docker", "unpause", NAME])
        typist.wait_for(10)
        typist.verify()
    assert typist.longest_wait > 0.3


def test_it_notices_that_numbers_are_lost(pair: Pair) -> None:
    typist = Typist(pair, NAME).start()
    typist.wait_for(10)
    pair[0].run(["docker", "restart", "-t", "1", NAME])
    with pytest.raises(TypistError, match="recorder after a move: count=0"):
        typist.wait_for(10)
    typist.stop(check=False)


def test_it_notices_a_number_that_somebody_else_typed(pair: Pair) -> None:
    typist = Typist(pair, NAME).start()
    typist.wait_for(10)
    typist.pause()
    with Attachment(pair[0].socket, NAME) as other:
        other.send("5")
        assert other.line(10).startswith("ok ")
    with pytest.raises(TypistError):
        typist.verify()
    typist.stop(check=False)


def test_it_gives_up_when_the_recorder_is_nowhere(pair: Pair) -> None:
    typist = Typist(pair, NAME, limit=2).start()
    typist.wait_for(3)
    pair[0].run(["docker", "rm", "-f", NAME])
    with pytest.raises(TypistError, match="runs nowhere"):
        typist.wait_for(10)
    typist.stop(check=False)


def test_it_finds_the_recorder_on_the_other_host(pair: Pair) -> None:
    """An empty recorder stands in for one that moved: found, and found to have lost numbers."""
    a, b = pair
    load_images(b)
    typist = Typist(pair, NAME).start()
    typist.wait_for(3)
    os.kill(_pid(a), signal.SIGKILL)
    _start(b)
    with pytest.raises(TypistError, match="after a move: count=0"):
        typist.wait_for(10)
    typist.stop(check=False)
    assert (typist.host, typist.moves) == (b, 1)


def test_it_outlives_an_engine_that_is_killed(pair: Pair) -> None:
    """A dockerd that is killed takes along what was on its way through it, to and fro.

    What had been acknowledged is in the recorder, and the typist finds out about the last number.
    """
    with engines(pair, live_restore=True), Typist(pair, NAME, every=0) as typist:
        for _ in range(4):
            typist.wait_for(200)
            pair[0].stop_engine(signal.SIGKILL)
            pair[0].start_engine()
            typist.wait_for(50)
            typist.verify()
    assert (typist.host, typist.moves) == (pair[0], 0)


def test_it_is_not_confused_by_answers_to_what_it_asked_before(pair: Pair) -> None:
    with engines(pair, live_restore=True), Typist(pair, NAME) as typist:
        typist.wait_for(10)
        recorder = _pid(pair[0])
        os.kill(recorder, signal.SIGSTOP)
        for asked in (1, 2):
            _await_unread(recorder, asked)
            pair[0].stop_engine(signal.SIGKILL)
            pair[0].start_engine()
        _await_unread(recorder, 3)
        os.kill(recorder, signal.SIGCONT)
        typist.wait_for(50)
        typist.verify()


def _await_unread(pid: int, lines: int) -> None:
    """Wait until the recorder, which is stopped, has been typed so many lines or more."""
    handle = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    deadline = time.monotonic() + pace.limit(30)
    try:
        count = array.array("i", [0])
        while count[0] < 2 * lines:  # none has fewer bytes; nothing tells that one was written
            assert time.monotonic() < deadline, f"{count[0]} bytes wait for it"
            fcntl.ioctl(handle, termios.FIONREAD, count)
            time.sleep(0.01)
    finally:
        os.close(handle)
