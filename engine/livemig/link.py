"""A link: frames over a pair of descriptors, with a thread each way and a heartbeat.

A side that has nothing to say sends a PING now and then; any byte that arrives counts as a sign of
life. A link dies once, for one reason: end of file, silence, bytes that are not the protocol's, or
an ERROR frame, which is the last that a peer sends. From then on ``send`` raises that reason at
once, and ``receive`` after the frames that had arrived before it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from livemig.errors import Cancelled, LinkLost, LivemigError, ProtocolError, from_wire
from livemig.frames import Assembler, Body, Buffer, Frame, FrameType, encode

QUEUE_LIMIT = 4 << 20
_BUFFER_SIZE = 1 << 20
_INLINE_LIMIT = 64 << 10
_IOV_MAX = 1024
_LAST_WORDS = 1.0
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTCONN)


class Link:
    """Frames to and from one peer over ``rfd`` and ``wfd``, which the link owns and closes.

    ``name`` says in errors who is on the other side. ``silence``, ``heartbeat`` and ``stuck`` are
    seconds: until a side that is not heard is lost, until one says something, and until a side
    that takes no byte is lost, whatever it says. So is ``greeting``, the silence that is allowed
    before the first byte (None: as later).
    ``closed`` is called once, from a thread of the link, when the link dies for any reason but
    ``close``; it must not block.
    """

    def __init__(
        self,
        rfd: int,
        wfd: int,
        *,
        name: str,
        silence: float = 15.0,
        greeting: float | None = None,
        heartbeat: float = 5.0,
        stuck: float = 120.0,
        closed: Callable[[LivemigError], None] | None = None,
    ) -> None:
        self.name = name
        self.bytes_sent = 0
        self.bytes_received = 0
        self._rfd, self._wfd = rfd, wfd
        self._silence, self._heartbeat, self._stuck = silence, heartbeat, stuck
        self._greeting = greeting or silence
        self._closed = closed
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._inbox: deque[Frame] = deque()
        self._inbox_size = 0
        self._outbox: deque[tuple[list[Buffer], int]] = deque()
        self._outbox_size = 0
        self._dead: LivemigError | None = None
        self._interrupted: LivemigError | None = None
        self._last_written = time.monotonic()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for fd in {rfd, wfd}:
            _prepare(fd)
        self._threads = [
            threading.Thread(target=self._read_loop, name=f"{name} reader", daemon=True),
            threading.Thread(target=self._write_loop, name=f"{name} writer", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def dead(self) -> LivemigError | None:
        """Return why the link died, None while it lives."""
        return self._dead

    def send(
        self, kind: FrameType, body: Body = None, payload: Buffer | Sequence[Buffer] = b""
    ) -> None:
        """Queue a frame; returns before it is written.

        The payload is not copied: its memory must stay as it is until ``flush``. Blocks while more
        than 4 MiB are queued. Raises the reason once the link is dead.
        """
        parts = encode(kind, body, payload)
        size = sum(memoryview(part).nbytes for part in parts)
        with self._lock:
            while not self._reason() and self._outbox_size > QUEUE_LIMIT:
                self._drained.wait()
            self._raise_reason()
            if not self._outbox_size and size <= _INLINE_LIMIT:
                parts = self._write_now(parts)
            if parts:
                self._queue(parts)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was queued is written; LinkLost after ``timeout`` seconds."""
        with self._lock:
            self._drained.wait_for(lambda: self._reason() or not self._outbox_size, timeout)
            if not self._outbox_size:
                return
            self._raise_reason()
            raise LinkLost(f"{self.name} takes no more data")

    def receive(self, timeout: float | None = None) -> Frame:
        """Return the next frame, waiting up to ``timeout`` seconds (then LinkLost).

        An ERROR frame is raised as the error that it carries.
        """
        frame = self.poll(timeout)
        if frame is None:
            raise LinkLost(f"{self.name} did not answer within {timeout:g} s")
        return frame

    def poll(self, timeout: float | None = 0.0) -> Frame | None:
        """Return the next frame as ``receive`` does, None if there is none within ``timeout``."""
        with self._lock:
            if not self._arrived.wait_for(lambda: self._inbox or self._reason(), timeout):
                return None
            if self._interrupted is not None or not self._inbox:
                self._raise_reason()
            frame = self._inbox.popleft()
            self._inbox_size -= frame.memory
            self._room.notify()
            return frame

    def expect(self, *kinds: FrameType, timeout: float | None = None) -> Frame:
        """Return the next frame, which must be one of ``kinds``; an ABORT raises Cancelled."""
        frame = self.receive(timeout)
        if frame.type in kinds:
            return frame
        if frame.type is FrameType.ABORT:
            reason = frame.body.get("message") if isinstance(frame.body, dict) else None
            raise Cancelled(str(reason or f"{self.name} gave the move up"))
        wanted = " or ".join(kind.name for kind in kinds)
        raise ProtocolError(f"{self.name} sent {frame.type.name} where {wanted} was due")

    def interrupt(self, error: LivemigError) -> None:
        """Let the ``send`` or ``receive`` that waits, or comes next, raise ``error`` once.

        For another thread that learns of a reason to stop; the link itself stays in use.
        """
        with self._lock:
            self._interrupted = error
            self._arrived.notify_all()
            self._drained.notify_all()

    def forget_interrupt(self) -> None:
        """Let an interruption that nobody has heard of pass without effect."""
        with self._lock:
            self._interrupted = None

    def fail(self, error: LivemigError) -> None:
        """Let the link die for ``error``: whoever waits in ``send`` or ``receive`` gets it."""
        with self._lock:
            first = self._dead is None
            if first:
                self._die(error)
        if first and self._closed is not None:
            self._closed(error)

    def close(self) -> None:
        """End the threads and close the descriptors; what is queued and not written is dropped."""
        for fd in set(self._end()):
            os.close(fd)

    def detach(self) -> tuple[int, int]:
        """End the threads and return the descriptors, which belong to the caller from now on.

        For handing a connection over between two frames: the other side must have nothing under
        way. Raises the reason where the link is dead.
        """
        self.flush()
        with self._lock:
            self._raise_reason()
        rfd, wfd = self._end()
        return rfd, wfd

    def _end(self) -> tuple[int, ...]:
        """End the threads; return the descriptors, nothing where that was done before."""
        with self._lock:
            if self._stop < 0:
                return ()
            if self._dead is None:
                self._die(LinkLost(f"the link to {self.name} was closed"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        with self._lock:
            if self._stop < 0:
                return ()
            os.close(self._stop)
            self._stop = -1
            return self._rfd, self._wfd

    # -- both threads

    def _reason(self) -> LivemigError | None:
        return self._interrupted or self._dead

    def _raise_reason(self) -> None:
        reason, self._interrupted = self._reason(), None
        if reason is not None:
            raise reason.with_traceback(None)

    def _die(self, error: LivemigError) -> None:
        self._dead = error
        os.eventfd_write(self._stop, 1)
        for condition in (self._arrived, self._drained, self._work, self._room):
            condition.notify_all()

    def _await(self, fd: int, event: int, timeout: float) -> bool:
        """Wait for ``event`` on ``fd``; say whether there is something to do within ``timeout``."""
        poller = select.poll()
        poller.register(fd, event)
        poller.register(self._stop, select.POLLIN)
        return bool(poller.poll(max(timeout, 0.0) * 1000))

    # -- reading

    def _read_loop(self) -> None:
        try:
            self._read_frames()
        except LivemigError as error:
            self.fail(error)
        except OSError as error:
            self.fail(LinkLost(f"the link to {self.name} broke: {error.strerror}"))

    def _read_frames(self) -> None:
        assembler = Assembler()
        heard, patience = time.monotonic(), self._greeting
        while self._dead is None:
            try:
                count = os.readv(self._rfd, assembler.buffers())
            except BlockingIOError:
                left = heard + patience - time.monotonic()
                if not self._await(self._rfd, select.POLLIN, left):
                    raise LinkLost(f"{self.name} was silent for {patience:g} s") from None
                continue
            if not count:
                where = " in the middle of a frame" if assembler.midway else ""
                raise LinkLost(f"{self.name} closed the link{where}")
            self.bytes_received += count
            for frame in assembler.filled(count):
                self._deliver(frame)
            heard, patience = time.monotonic(), self._silence

    def _deliver(self, frame: Frame) -> None:
        if frame.type in (FrameType.PING, FrameType.PONG):
            return
        if frame.type is FrameType.ERROR:
            raise from_wire(frame.body if isinstance(frame.body, dict) else {})
        with self._lock:
            while self._dead is None and self._inbox_size > QUEUE_LIMIT:
                self._room.wait()
            self._inbox.append(frame)
            self._inbox_size += frame.memory
            self._arrived.notify()

    # -- writing

    def _queue(self, parts: list[Buffer]) -> None:
        size = sum(memoryview(part).nbytes for part in parts)
        self._outbox.append((parts, size))
        self._outbox_size += size
        self._work.notify()

    def _write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Write without waiting; return what is left for the writer's thread."""
        try:
            return self._advance(parts, os.writev(self._wfd, parts[:_IOV_MAX]))
        except OSError:
            return parts

    def _advance(self, parts: list[Buffer], count: int) -> list[Buffer]:
        self.bytes_sent += count
        self._last_written = time.monotonic()
        for index, part in enumerate(parts):
            size = memoryview(part).nbytes
            if count < size:
                rest = memoryview(part).cast("B")[count:]
                return [rest, *parts[index + 1 :]]
            count -= size
        return []

    def _write_loop(self) -> None:
        try:
            while (item := self._next_item()) is not None:
                parts, size = item
                self._write_all(parts)
                if self._dead is not None:
                    return
                with self._lock:
                    self._outbox.popleft()
                    self._outbox_size -= size
                    self._drained.notify_all()
        except OSError as error:
            self._hear_last_words(error)
        except LinkLost as error:
            self.fail(error)

    def _next_item(self) -> tuple[list[Buffer], int] | None:
        """Return the head of the queue, which stays queued; None once the link is dead."""
        with self._lock:
            while self._dead is None and not self._outbox:
                left = self._last_written + self._heartbeat - time.monotonic()
                if left <= 0:
                    self._queue(encode(FrameType.PING))
                else:
                    self._work.wait(left)
            return None if self._dead is not None else self._outbox[0]

    def _write_all(self, parts: list[Buffer]) -> None:
        while parts and self._dead is None:
            try:
                parts = self._advance(parts, os.writev(self._wfd, parts[:_IOV_MAX]))
            except BlockingIOError:
                if not self._await(self._wfd, select.POLLOUT, self._stuck):
                    raise LinkLost(f"{self.name} took no data for {self._stuck:g} s") from None

    def _hear_last_words(self, error: OSError) -> None:
        """The peer reads no more: leave the reader a moment to find the ERROR that says why."""
        with self._lock:
            self._arrived.wait_for(lambda: self._dead, _LAST_WORDS)
        why = "closed the link" if error.errno in _GONE else f"cannot be reached: {error.strerror}"
        self.fail(LinkLost(f"{self.name} {why}"))


def _prepare(fd: int) -> None:
    """Make ``fd`` non-blocking, and its buffer large where it is a pipe or a local socket."""
    os.set_blocking(fd, False)
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _BUFFER_SIZE)
    except OSError:
        _enlarge_socket(fd)


def _enlarge_socket(fd: int) -> None:
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:
        return
    with sock:
        if sock.family == socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
