"""Somebody who types numbers into the recorder, goes with it when it moves, and keeps the books.

    with Typist((a, b), "recorder") as typist:
        a.run(["docker", "livemig", "recorder", b.name])
        typist.verify()

`verify` compares the recorder's own answer with what was typed and acknowledged: nothing lost,
nothing twice that was typed once, nothing out of order.
"""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType

import requests

import docker
from tests import pace
from tests.attachment import Attachment, ClosedError, Events
from tests.hosts import HostsError
from tests.place import Place
from tests.recorder import Model

_LOOK = 0.2  # seconds between two looks for an engine that is down
_MARK, _NO_NUMBER = "mark-", "error: not a number: "


class TypistError(AssertionError):
    """The recorder did not answer what it must, or not in time."""


class Typist:
    """Types increasing numbers, one after the other was acknowledged, from a thread of its own."""

    def __init__(
        self,
        hosts: Sequence[Place],
        container: str = "recorder",
        *,
        every: float = 0.005,
        limit: float = 60.0,
    ) -> None:
        """Type a number each `every` seconds; `limit` is for one answer, a move included."""
        self._hosts = hosts
        self._container = container
        self._every = pace.limit(every)  # who types must not take the processor from the move
        self._limit = pace.limit(limit)
        self._model = Model()
        self._go = threading.Event()
        self._idle = threading.Event()
        self._stop = threading.Event()
        self._given_up = False
        self._progress = threading.Condition()
        self._wake = os.eventfd(0)
        self._marks = 0
        self._twice: list[int] = []
        self._attachment: Attachment | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="typist")
        self._work: Future[None] | None = None
        self.acked: list[int] = []
        """The numbers that were acknowledged, in order."""
        self.in_flight: int | None = None
        """The number that was typed and not acknowledged yet."""
        self.host: Place | None = None
        """Where the recorder was found last."""
        self.moves = 0
        """How often it was found on another host than before."""
        self.longest_wait = 0.0
        """The longest time, in seconds, that one acknowledgement took."""

    def __enter__(self) -> Typist:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(check=problem is None)

    # Seen from the thread that owns it

    def start(self) -> Typist:
        """Begin to type."""
        self._attach(time.monotonic() + self._limit)
        self._go.set()
        self._work = self._worker.submit(self._type_on)
        self._work.add_done_callback(lambda _: self._tell())
        return self

    def pause(self) -> None:
        """Stop typing and return once the last number is acknowledged."""
        self._go.clear()
        self._await_idle()

    def resume(self) -> None:
        """Type on."""
        self._raise_failure()
        self._idle.clear()
        self._go.set()

    def stop(self, *, check: bool = True) -> None:
        """Finish the last number and leave; `check` raises what went wrong in the thread.

        Without it the last number is given up.
        """
        self._stop.set()
        self._go.set()
        if not check:
            self._given_up = True  # before the interruption: what is attached to later looks at it
            os.eventfd_write(self._wake, 1)
            if self._attachment:
                self._attachment.interrupt()
        self._worker.shutdown()
        os.close(self._wake)
        if self._attachment:
            self._attachment.close()
            self._attachment = None
        if check:
            self._raise_failure()

    def wait_for(self, more: int, timeout: float = 30.0) -> None:
        """Return once so many more numbers are acknowledged."""
        goal, timeout = len(self.acked) + more, pace.limit(timeout)
        work = self._work

        def over() -> bool:
            return len(self.acked) >= goal or work is None or work.done()

        with self._progress:
            self._progress.wait_for(over, timeout)
        if len(self.acked) < goal:
            self._raise_failure()
            raise TypistError(f"{len(self.acked)} of {goal} numbers after {timeout:g} s")

    def verify(self) -> str:
        """Hold the recorder's own report against the books and return it; typing goes on after.

        TypistError if a number is lost, doubled or out of order, or the heap is damaged.
        """
        with self._paused():
            report = self._ask(time.monotonic() + self._limit)
            if not f"{report} ".startswith(f"{self._model.report()} heap=intact "):
                raise TypistError(f"recorder: {report}\nexpected: {self._model.report()}")
        return report

    def ask(self, line: str = "0") -> str:
        """Have the recorder report (a negative number begins its largest gap anew)."""
        with self._paused():
            return self._ask(time.monotonic() + self._limit, line)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        typing = self._go.is_set()
        self.pause()
        yield
        if typing and not self._stop.is_set():
            self.resume()

    def _await_idle(self) -> None:
        deadline = time.monotonic() + 2 * self._limit
        while not self._idle.wait(0.1):
            self._raise_failure()
            if self._work is None or self._work.done():
                return
            if time.monotonic() > deadline:
                raise TypistError(f"number {self.in_flight} is still under way")
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._work and self._work.done():
            self._work.result()

    # In the thread

    def _type_on(self) -> None:
        number = 0
        while not self._stop.is_set():
            if not self._go.is_set():
                self._idle.set()
                self._go.wait()
                continue
            number += 1
            self._type(number)
            self._stop.wait(self._every)

    def _type(self, number: int) -> None:
        begun = time.monotonic()
        deadline = begun + self._limit
        self.in_flight = number
        typed = 0
        while self.in_flight is not None:
            try:
                self._attached().send(str(number))
                typed += 1
                if typed > 1:
                    self._twice.append(number)
                while self.in_flight is not None:
                    self._accept(self._answer(deadline))
            except ClosedError:
                self._follow(deadline)
        self.longest_wait = max(self.longest_wait, time.monotonic() - begun)

    def _accept(self, answer: str) -> None:
        """Take the acknowledgement of the number under way, or of one that comes a second time."""
        if answer.startswith(("count=", f"{_NO_NUMBER}{_MARK}")):
            return  # asked for in a connection that was lost
        words = answer.split()
        late = [each for each in self._twice if words[:1] == ["ok"] and words[2:3] == [str(each)]]
        number = late[0] if late else self.in_flight
        expected = "nothing" if number is None else self._model.record(number)
        if number is None or answer != expected:
            raise TypistError(f"recorder: {answer!r}, expected {expected!r}")
        self._done(number)

    def _done(self, number: int) -> None:
        if number != self.in_flight:
            self._twice.remove(number)
            return
        self.acked.append(number)
        self.in_flight = None
        self._tell()

    def _tell(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _follow(self, deadline: float) -> None:
        """Find the recorder again, and find out what it recorded meanwhile.

        A number that was typed into a connection which was lost may be lost with it (in a dockerd
        that was killed), or come late, when it was typed again: it may be there as often as it was
        typed.
        """
        self._attach(deadline)
        answer = self._ask(deadline)
        numbers = answer.split(" heap=")[0]
        under_way = [*self._twice[-2:], *([] if self.in_flight is None else [self.in_flight])]
        for many in range(len(under_way) + 1):
            for more in itertools.permutations(under_way, many):
                if numbers == self._model.report_with(*more):
                    for number in more:
                        self._model.record(number)
                        self._done(number)
                    return
        raise TypistError(f"recorder after a move: {answer}\nexpected: {self._model.report()}")

    def _ask(self, deadline: float, line: str = "0") -> str:
        """Have the recorder report, after taking all that it says before.

        What was typed into a connection that is lost may be answered in the next, or never; a mark
        behind the line tells that the report is there.
        """
        report = ""
        while not report:
            self._marks += 1
            try:
                self._attached().send(line)
                self._attached().send(f"{_MARK}{self._marks}")
                while (answer := self._answer(deadline)) != f"{_NO_NUMBER}{_MARK}{self._marks}":
                    self._accept(answer)
                    report = answer if answer.startswith("count=") else ""
            except ClosedError:
                report = ""
                self._attach(deadline)
        return report

    def _answer(self, deadline: float) -> str:
        """Return the next line that is an answer: not a tick, not a greeting."""
        while True:
            try:
                line = self._attached().line(deadline - time.monotonic())
            except TimeoutError:
                raise TypistError(f"no answer from {self.host} to {self.in_flight}") from None
            if line != "ready" and not line.startswith(("tick ", "gap_us=")):
                return line

    def _attached(self) -> Attachment:
        if self._attachment is None:
            raise ClosedError
        return self._attachment

    # Where the recorder is

    def _attach(self, deadline: float) -> None:
        """Attach to the recorder on the host where it runs; wait until it runs somewhere."""
        if self._attachment:
            self._attachment.close()
            self._attachment = None
        while not self._given_up:
            streams = self._listen()
            try:
                self._attach_when_it_runs(streams, deadline)
            except ClosedError:
                continue  # an engine has ended; the container may come back with the next one
            else:
                break
            finally:
                for stream in streams:
                    stream.close()
        if self._given_up:
            raise TypistError("nobody waits for the answer any more")

    def _attach_when_it_runs(self, streams: list[Events], deadline: float) -> None:
        """Return when it is attached; ClosedError where the engines have to be called up anew."""
        while not self._try_hosts():
            left = max(deadline - time.monotonic(), 0)
            watched = [self._wake, *(stream.fileno() for stream in streams)]
            # An engine that is down tells nobody when it is up again.
            pause = left if len(streams) == len(self._hosts) else min(left, _LOOK)
            ready, _, _ = select.select(watched, [], [], pause)
            if self._wake in ready or time.monotonic() >= deadline:
                raise TypistError(f"{self._container} runs nowhere")
            if not ready:
                raise ClosedError
            for stream in streams:
                if stream.fileno() in ready:
                    stream.drain()

    def _listen(self) -> list[Events]:
        streams = []
        for host in self._hosts:
            try:
                streams.append(Events(host.socket, self._container))
            except (HostsError, OSError):
                continue
        return streams

    def _try_hosts(self) -> bool:
        for host in self._hosts:
            try:
                if not _runs(host, self._container):
                    continue
                self._attachment = Attachment(host.socket, self._container)
            except (HostsError, OSError, docker.errors.DockerException):
                continue
            self.moves += self.host not in (None, host)
            self.host = host
            return True
        return False


def _runs(host: Place, container: str) -> bool:
    api = host.api(10)
    try:
        state = api.inspect_container(container)["State"]
    except (docker.errors.APIError, requests.ConnectionError):
        return False
    finally:
        api.close()
    return bool(state["Running"] and not state["Paused"])
