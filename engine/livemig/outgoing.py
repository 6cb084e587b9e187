"""A container's process on its way out: watched, frozen, read, and let go again where need be."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from livemig.errors import NotCarried, ProcessGone
from livemig.extract import extract_process, refuse_process
from livemig.extract.files import Descriptions
from livemig.extract.guards import find_guards
from livemig.extract.properties import Properties
from livemig.freezer import Freezer
from livemig.infect import borrow, find_gadgets, infected
from livemig.model import Clocks, Image, Process, Role, RoundStat
from livemig.pagemap import Pagemap
from livemig.rounds import MemorySource, Send
from livemig.stdin import UnreadInput, find_stream
from livemig.system import procfs
from livemig.system.memory import Memory
from livemig.tracing import Tracee, telling_death
from livemig.tracker import Everything, Tracker, WriteProtectScan
from livemig.waiting import end_on_time


@dataclass
class Outgoing:
    """The one process of a container that moves away.

    ``start`` comes first, then rounds while it runs, ``freeze``, the frozen round, ``extract``,
    and ``seal``. ``release`` undoes all of it from any point, and lets the process run on.
    """

    pid: int
    freezer: Freezer
    streams: dict[int, Role]
    cache: int

    def __post_init__(self) -> None:
        self._memory = Memory(self.pid)
        self._pagemap = Pagemap(self.pid)
        self._tracee = Tracee(self.pid)
        self._gadgets = find_gadgets(self.pid, self._memory)
        self._traced = False
        self._frozen = False
        self._stdin: UnreadInput | None = None
        self.properties = Properties(self.pid)
        self.tracker: Tracker = Everything(self._pagemap)

    def start(self, *, live: bool) -> None:
        """Get ready to send memory; ``live`` plants what tells written pages (KernelLacks)."""
        if live:
            self._attach()
            try:
                with borrow(self._tracee, self._memory, self._gadgets) as loan:
                    self.tracker = WriteProtectScan.plant(loan, self._pagemap)
                end_on_time(self._tracee, self._memory, self._gadgets)
            finally:
                self._detach()
        number = procfs.namespaced_id(self.pid)
        self._source = MemorySource(self._memory, number, self.tracker, self._pagemap, self.cache)
        self._source.properties = self.properties
        if live:
            self.properties.watch()

    def round(self, send: Send) -> RoundStat:
        """Send one round; exact once the process is frozen."""
        with telling_death(self.pid):
            return self._source.round(send, frozen=self._frozen)

    def waiting(self) -> int:
        """Return the bytes of pages written since the last round."""
        return self._source.waiting()

    def freeze(self) -> None:
        """Stop every thread, so that none runs an instruction any more.

        NotCarried where the container has got another process meanwhile, or its process another
        thread, or anything else that could not be carried; ProcessGone where it has ended.
        """
        with telling_death(self.pid):
            self._freeze()

    def _freeze(self) -> None:
        self._tracee.look()
        self.freezer.freeze()
        self._frozen = True
        self._refuse_others()
        refuse_process(self.pid, mappings=False)
        self._tracee.attach()
        self._traced = True
        self._tracee.request_stop()
        self.freezer.thaw()
        self._tracee.await_stop()

    def _refuse_others(self) -> None:
        others = [pid for pid in self.freezer.processes() if pid != self.pid]
        if others:
            raise NotCarried(
                f"process {others[0]} ({procfs.read_status(others[0])['Name']}) came into the "
                "container while it was being moved",
                hint="this version moves containers of one process; end it, and move again",
            )

    def extract(self) -> Image:
        """Return everything but the pages of the frozen container."""
        descriptions = Descriptions(self.streams)
        with (
            borrow(self._tracee, self._memory, self._gadgets) as loan,
            infected(loan) as stub,
        ):
            process = extract_process(self.pid, 0, loan, stub, descriptions)
        guards = find_guards(self._pagemap.descriptor, self._source.unheld())
        return self._image(replace(process, guards=tuple(guards)), descriptions)

    def _image(self, process: Process, descriptions: Descriptions) -> Image:
        unread, ended = b"", False
        if (descriptor := find_stream(self.pid, self.streams)) is not None:
            self._stdin = UnreadInput(descriptor)
            unread, ended = self._stdin.peek()
        monotonic, boottime = procfs.clock_offsets(self.pid)
        clocks = Clocks(
            time.clock_gettime_ns(time.CLOCK_MONOTONIC) + monotonic,
            time.clock_gettime_ns(time.CLOCK_BOOTTIME) + boottime,
        )
        return Image((process,), tuple(descriptions.found), clocks, unread, ended)

    def seal(self) -> UnreadInput | None:
        """Hold the process by its cgroup alone, so that our death does not let it run.

        Returns its standard input, whose rest still has to be forwarded. NotCarried where another
        process has come in since it was stopped.
        """
        self._hold()
        self._refuse_others()
        return self._stdin

    def _hold(self) -> None:
        self.freezer.request_freeze()
        self._detach()
        self.freezer.freeze()

    def contents(self, chunk: int) -> Iterator[tuple[int, bytes]]:
        """Yield address and content of all pages that the frozen process owns."""
        for start, end in self._source.held():
            for address in range(start, end, chunk):
                yield address, self._memory.read(address, min(chunk, end - address))

    def kill(self) -> None:
        """End the sealed process: it gets SIGKILL before it is thawed, and runs no instruction."""
        for pid in self.freezer.processes():
            os.kill(pid, signal.SIGKILL)
        self.freezer.thaw()

    def release(self, *, frozen: bool = False) -> None:
        """Let the process run as if nothing had been; one that is gone is no error.

        ``frozen``: somebody else holds it frozen too, and goes on with that.
        """
        self.tracker.close()
        self.tracker = Everything(self._pagemap)
        try:
            if frozen:
                self._hold()
                return
            if self._frozen:
                self._thaw_on_time()
            self._detach()
        except (ProcessGone, FileNotFoundError):
            return
        finally:
            self._frozen = False

    def _thaw_on_time(self) -> None:
        """Thaw the process so that a call that it waits in ends when it would have ended."""
        call = self._tracee.call
        call.refresh()
        if call.starts_over() and not self._traced:
            deadline = call.deadline
            self._tracee.attach()
            self._traced = True
            self._tracee.request_stop()
            self.freezer.thaw()
            self._tracee.await_stop()
            call.deadline = deadline
        self.freezer.thaw()
        if self._traced:
            end_on_time(self._tracee, self._memory, self._gadgets)

    def close(self) -> None:
        """Close what this side holds."""
        self.tracker.close()
        self.properties.close()
        self._pagemap.close()
        self._memory.close()
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None

    def _attach(self) -> None:
        self._tracee.attach()
        self._traced = True
        self._tracee.stop()

    def _detach(self) -> None:
        if self._traced:
            self._traced = False
            self._tracee.detach()
