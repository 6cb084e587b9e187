"""A link carries frames both ways, and says why when it dies."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from livemig.errors import Cancelled, DiskFull, LinkLost, LivemigError, ProtocolError
from livemig.frames import FrameType, encode
from livemig.link import QUEUE_LIMIT, Link
from tests.unit.leftovers import nothing_left

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)

Ends = tuple[tuple[int, int], tuple[int, int]]
MIB = 1 << 20


def pipe_ends() -> Ends:
    there, back = os.pipe(), os.pipe()
    return (back[0], there[1]), (there[0], back[1])


def socket_ends() -> Ends:
    one, two = (sock.detach() for sock in socket.socketpair())
    return (one, one), (two, two)


@pytest.fixture(params=[pipe_ends, socket_ends], ids=["pipes", "socket"])
def ends(request: pytest.FixtureRequest) -> Ends:
    make: Callable[[], Ends] = request.param
    return make()


@pytest.fixture
def links(ends: Ends) -> Iterator[tuple[Link, Link]]:
    with Link(*ends[0], name="target") as one, Link(*ends[1], name="source") as two:
        yield one, two


class Bare:
    """The other side as bare descriptors, for what a link would not do."""

    def __init__(self, silence: float = 15.0, greeting: float | None = None) -> None:
        ours, (self.rfd, self.wfd) = pipe_ends()
        self.reasons: list[LivemigError] = []
        self.died = threading.Event()
        self.link = Link(
            *ours, name="target", silence=silence, greeting=greeting, closed=self._closed
        )

    def _closed(self, error: LivemigError) -> None:
        self.reasons.append(error)
        self.died.set()

    def write(self, data: bytes) -> None:
        os.write(self.wfd, data)

    def say(self, kind: FrameType, body: object = None) -> None:
        self.write(b"".join(encode(kind, body)))

    def hang_up(self) -> None:
        for fd in (self.rfd, self.wfd):
            if fd >= 0:
                os.close(fd)
        self.rfd = self.wfd = -1


@pytest.fixture
def bare() -> Iterator[Bare]:
    other = Bare()
    yield other
    other.link.close()
    other.hang_up()


def test_frames_both_ways_in_order(links: tuple[Link, Link]) -> None:
    one, two = links
    for number in range(200):
        one.send(FrameType.PAGES, {"n": number}, [b"a" * (number * 200), memoryview(b"tail")])
        two.send(FrameType.PROGRESS, {"n": number})
    for number in range(200):
        frame = two.receive(5)
        assert (frame.type, frame.body["n"]) == (FrameType.PAGES, number)
        assert frame.payload == b"a" * (number * 200) + b"tail"
        assert one.receive(5).body == {"n": number}
    one.flush(1)  # its sender counts when the bytes are gone
    assert one.bytes_sent == two.bytes_received


def test_large_payloads_of_many_parts(links: tuple[Link, Link]) -> None:
    one, two = links
    parts = [bytes([number % 256]) * 1024 for number in range(3000)]
    sender = threading.Thread(target=one.send, args=(FrameType.PAGES, 0, parts))
    sender.start()
    assert two.receive(10).payload == b"".join(parts)
    sender.join()
    one.flush(1)


def test_a_small_frame_is_on_its_way_when_send_returns() -> None:
    other = Bare()
    other.link.send(FrameType.FREEZE, {"n": 1})
    os.set_blocking(other.rfd, False)
    assert os.read(other.rfd, 1000) == b"".join(encode(FrameType.FREEZE, {"n": 1}))
    other.link.close()
    other.hang_up()


def test_a_large_frame_overtakes_nothing(links: tuple[Link, Link]) -> None:
    one, two = links
    for number in range(20):
        one.send(FrameType.PAGES, number, bytes(3 * MIB))
        one.send(FrameType.ROUND_END, number)
        for kind in (FrameType.PAGES, FrameType.ROUND_END):
            frame = two.receive(5)
            assert (frame.type, frame.body) == (kind, number)


def test_end_of_file_is_a_lost_link(bare: Bare) -> None:
    bare.say(FrameType.PREPARED)
    bare.hang_up()
    assert bare.link.receive(5).type is FrameType.PREPARED  # what arrived before is not lost
    for _ in range(2):
        with pytest.raises(LinkLost, match="target closed the link"):
            bare.link.receive(5)
    with pytest.raises(LinkLost, match="target closed the link"):
        bare.link.send(FrameType.COMMIT)
    assert bare.died.wait(5)
    assert len(bare.reasons) == 1


def test_end_of_file_within_a_frame(bare: Bare) -> None:
    bare.write(b"".join(encode(FrameType.PREPARED, {"a": "b"}))[:-1])
    bare.hang_up()
    with pytest.raises(LinkLost, match="in the middle of a frame"):
        bare.link.receive(5)


def test_a_receiver_wakes_when_the_link_dies(bare: Bare) -> None:
    timer = threading.Timer(0.1, bare.hang_up)
    timer.start()
    started = time.monotonic()
    with pytest.raises(LinkLost):
        bare.link.receive()
    assert time.monotonic() - started < 2
    timer.join()


def test_garbage_is_a_protocol_error(bare: Bare) -> None:
    bare.write(b"Welcome to this machine! Have a nice day.\n")
    with pytest.raises(ProtocolError, match="Welcome to"):
        bare.link.receive(5)


def test_silence_is_a_lost_link() -> None:
    other = Bare(silence=0.3)
    started = time.monotonic()
    with pytest.raises(LinkLost, match=r"target was silent for 0\.3 s"):
        other.link.receive(5)
    assert 0.2 < time.monotonic() - started < 2
    other.link.close()
    other.hang_up()


def test_the_first_word_may_take_longer_than_the_later_ones() -> None:
    other = Bare(silence=0.2, greeting=5)
    assert not other.died.wait(0.5)
    other.say(FrameType.PREPARED)
    assert other.link.receive(2).type is FrameType.PREPARED
    assert other.died.wait(2)
    assert "silent for 0.2 s" in str(other.reasons[0])
    other.link.close()
    other.hang_up()


def test_the_heartbeat_breaks_the_silence() -> None:
    ours, theirs = pipe_ends()
    one = Link(*ours, name="target", silence=3, heartbeat=0.1)
    two = Link(*theirs, name="source", silence=3, heartbeat=0.1)
    with one, two:
        assert one.poll(4) is None
        assert one.dead is None
        two.send(FrameType.PREPARED)
        assert one.receive(1).type is FrameType.PREPARED


def test_an_error_frame_is_raised_as_its_error(links: tuple[Link, Link]) -> None:
    one, two = links
    two.send(FrameType.PREPARED)
    two.send(FrameType.ERROR, DiskFull("disk of b is full", hint="make room").to_wire())
    assert one.receive(5).type is FrameType.PREPARED
    with pytest.raises(DiskFull, match="disk of b is full") as caught:
        one.receive(5)
    assert caught.value.hint == "make room"
    with pytest.raises(DiskFull):
        one.send(FrameType.CREATE)


@pytest.mark.parametrize("body", [None, [], {"code": 3}, {"code": "no-such-code", "message": "m"}])
def test_an_error_frame_of_any_shape_is_an_error(bare: Bare, body: object) -> None:
    bare.say(FrameType.ERROR, body)
    with pytest.raises(LivemigError):
        bare.link.receive(5)


def test_the_reason_of_the_peer_is_heard_by_a_sender(bare: Bare) -> None:
    """The peer says why and hangs up while we send: the reason counts, not the broken pipe."""
    os.close(bare.rfd)
    bare.rfd = -1
    with pytest.raises(DiskFull):  # noqa: PT012
        bare.link.send(FrameType.PAGES, None, bytes(2 * MIB))
        bare.say(FrameType.ERROR, DiskFull("disk of b is full").to_wire())
        bare.hang_up()
        while True:
            bare.link.send(FrameType.PAGES, None, bytes(2 * MIB))


def test_a_peer_that_stops_reading_is_lost_for_a_sender(bare: Bare) -> None:
    os.close(bare.rfd)
    bare.rfd = -1
    bare.link.send(FrameType.PAGES, None, bytes(MIB))
    with pytest.raises(LinkLost, match="target closed the link"):
        bare.link.receive(5)


def test_send_blocks_when_much_is_queued_and_wakes_when_the_link_dies(bare: Bare) -> None:
    sent = []
    caught: list[LivemigError] = []

    def send_much() -> None:
        try:
            for number in range(100):
                bare.link.send(FrameType.PAGES, number, bytes(MIB))
                sent.append(number)
        except LivemigError as error:
            caught.append(error)

    sender = threading.Thread(target=send_much)
    sender.start()
    deadline = time.monotonic() + 20
    while len(sent) < QUEUE_LIMIT // MIB and time.monotonic() < deadline:
        time.sleep(0.01)
    sender.join(0.5)
    assert sender.is_alive()
    assert QUEUE_LIMIT // MIB <= len(sent) <= QUEUE_LIMIT // MIB + 3
    with pytest.raises(LinkLost, match="takes no more data"):
        bare.link.flush(0.05)
    bare.hang_up()
    sender.join(5)
    assert isinstance(caught[0], LinkLost)


def test_a_peer_that_takes_no_byte_is_lost_though_it_speaks() -> None:
    ours, (rfd, wfd) = pipe_ends()
    with Link(*ours, name="target", stuck=0.5) as link:
        over = threading.Event()

        def speak() -> None:
            while not over.wait(0.1):
                os.write(wfd, b"".join(encode(FrameType.PING)))

        speaker = threading.Thread(target=speak)
        speaker.start()
        try:
            link.send(FrameType.PAGES, None, bytes(QUEUE_LIMIT + MIB))
            with pytest.raises(LinkLost, match=r"target took no data for 0\.5 s"):
                link.send(FrameType.PAGES, None, bytes(MIB))
        finally:
            over.set()
            speaker.join(5)
    os.close(rfd)
    os.close(wfd)


def test_flush_does_not_take_death_for_success(bare: Bare) -> None:
    bare.link.send(FrameType.PAGES, None, bytes(4 * MIB))
    timer = threading.Timer(0.1, bare.hang_up)
    timer.start()
    with pytest.raises(LinkLost, match="target closed the link"):
        bare.link.flush(5)
    timer.join()
    with pytest.raises(LinkLost, match="target closed the link"):
        bare.link.flush(5)


def test_what_is_not_received_is_not_read(links: tuple[Link, Link]) -> None:
    one, two = links
    done = threading.Event()

    def send_much() -> None:
        for number in range(60):
            one.send(FrameType.PAGES, number, bytes(MIB))
        done.set()

    sender = threading.Thread(target=send_much)
    sender.start()
    assert not done.wait(0.5)
    assert two.bytes_received < QUEUE_LIMIT + 4 * MIB
    assert [two.receive(5).body for _ in range(60)] == list(range(60))
    sender.join(5)


def test_timeouts(bare: Bare) -> None:
    assert bare.link.poll() is None
    with pytest.raises(LinkLost, match=r"target did not answer within 0\.05 s"):
        bare.link.receive(0.05)
    assert bare.link.dead is None


def test_expect(bare: Bare) -> None:
    bare.say(FrameType.PREPARED, {"x": 1})
    assert bare.link.expect(FrameType.PREPARED, FrameType.HELD, timeout=5).body == {"x": 1}
    bare.say(FrameType.HELD)
    with pytest.raises(ProtocolError, match="target sent HELD where PREPARED or CREATED was due"):
        bare.link.expect(FrameType.PREPARED, FrameType.CREATED, timeout=5)
    bare.say(FrameType.ABORT, {"message": "docker stop came between"})
    with pytest.raises(Cancelled, match="docker stop came between"):
        bare.link.expect(FrameType.PREPARED, timeout=5)
    bare.say(FrameType.ABORT)
    with pytest.raises(Cancelled, match="target gave the move up"):
        bare.link.expect(FrameType.PREPARED, timeout=5)


def test_fail_wakes_a_receiver(bare: Bare) -> None:
    timer = threading.Timer(0.1, bare.link.fail, [Cancelled("enough")])
    timer.start()
    with pytest.raises(Cancelled, match="enough"):
        bare.link.receive(5)
    timer.join()
    bare.link.fail(DiskFull("too late"))
    assert [str(reason) for reason in bare.reasons] == ["enough"]


def test_interrupt_is_raised_once(bare: Bare) -> None:
    timer = threading.Timer(0.1, bare.link.interrupt, [Cancelled("enough")])
    timer.start()
    with pytest.raises(Cancelled, match="enough"):
        bare.link.receive(5)
    timer.join()
    bare.say(FrameType.PREPARED)
    assert bare.link.receive(5).type is FrameType.PREPARED
    bare.link.interrupt(Cancelled("again"))
    with pytest.raises(Cancelled, match="again"):
        bare.link.send(FrameType.FREEZE)
    bare.link.send(FrameType.ABORT)
    bare.link.flush(1)


def test_close_is_silent_and_final(bare: Bare) -> None:
    bare.link.close()
    bare.link.close()
    assert bare.reasons == []
    assert os.read(bare.rfd, 1) == b""
    with pytest.raises(LinkLost, match="the link to target was closed"):
        bare.link.receive(1)
    with pytest.raises(LinkLost, match="the link to target was closed"):
        bare.link.send(FrameType.PING)


def test_close_ends_a_write_that_nobody_reads(bare: Bare) -> None:
    bare.link.send(FrameType.PAGES, None, bytes(4 * MIB))
    started = time.monotonic()
    bare.link.close()
    assert time.monotonic() - started < 2


def test_the_callback_may_close_the_link() -> None:
    ours, theirs = pipe_ends()
    box: list[Link] = []
    done = threading.Event()

    def closed(_error: LivemigError) -> None:
        box[0].close()
        done.set()

    box.append(Link(*ours, name="target", closed=closed))
    for fd in theirs:
        os.close(fd)
    assert done.wait(5)
