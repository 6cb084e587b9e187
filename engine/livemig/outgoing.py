"""A container's process on its way out: watched, frozen, read, and let go again where need be."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from livemig import late_signals, terminal, typed
from livemig.errors import NotCarried, ProcessGone, TransferError
from livemig.extract import extract_process, read_layout, refuse_process
from livemig.extract.breakpoints import code, refuse_breakpoints
from livemig.extract.files import Descriptions
from livemig.extract.guards import find_guards
from livemig.extract.process import is_stopped
from livemig.extract.properties import Properties
from livemig.extract.threads import refuse_io_ports
from livemig.freezer import Freezer, await_end
from livemig.infect import borrow, find_gadgets, infected
from livemig.model import Clocks, Image, Process, Role, RoundStat, TrackerChoice, Typed
from livemig.pagemap import Pagemap
from livemig.pause import paused
from livemig.rounds import MemorySource, Send
from livemig.stdin import LateInput, UnreadInput, feed, find_stream
from livemig.system import procfs, ttys
from livemig.system.memory import PAGE_SIZE, Memory
from livemig.system.ttys import Settings
from livemig.tracing import Tracee, telling_death
from livemig.tracker import Everything, Tracker, Watched, plant_tracker
from livemig.vdso import within
from livemig.waiting import end_on_time

_FEED_LIMIT = 10.0
_EXECUTIONS = 20  # of programs in one round; to start over takes some half a second each time
_LEAVING = 5.0  # seconds in which a process has to leave its vDSO


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
    patience: float = 0.0
    """Seconds that others who came into the container, Docker's probes, may take to leave it."""
    foreign: bool = False
    """Whether the target's kernel maps another vDSO: then the process must not stop within its."""

    def __post_init__(self) -> None:
        self._open()
        self._tracee = Tracee(self.pid)
        self._gadgets = find_gadgets(self.pid, self._memory)
        self._traced = False
        self._frozen = False
        self._stdin: UnreadInput | None = None
        self.properties = Properties(self.pid)
        self._wanted: TrackerChoice | None = None  # a tracker that is to be planted
        self._pty: terminal.Pty | None = None
        self._pending = 0
        self._expected = 0
        self._let_go: threading.Thread | None = None
        self._taken: tuple[Settings, Typed] | None = None

    def _open(self) -> None:
        """Take hold of the memory that the process has now."""
        memory = Memory(self.pid)
        try:
            pagemap = Pagemap(self.pid)
        except BaseException:
            memory.close()
            raise
        self._memory, self._pagemap = memory, pagemap
        self.tracker: Tracker = Everything(pagemap)

    @property
    def _watched(self) -> Watched:
        return Watched(self._memory, self._pagemap, self._pause)

    @contextmanager
    def _pause(self) -> Iterator[None]:
        with paused(self._tracee):
            yield
            end_on_time(self._tracee, self._memory, self._gadgets)

    def start(self, *, live: bool, tracker: TrackerChoice = "auto") -> None:
        """Get ready to send memory; ``live`` plants what tells written pages (KernelLacks)."""
        self._refuse_breakpoints()
        if live:
            self._plant(tracker)
        self._choice = tracker if live else None
        self._pty = terminal.find(self.pid)
        number = procfs.namespaced_id(self.pid)
        self._source = MemorySource(self._watched, number, self.tracker, self.cache)
        self._source.properties = self.properties
        if live:
            self.properties.watch()

    def _refuse_breakpoints(self) -> None:
        with telling_death(self.pid):
            mappings = read_layout(self.pid, 0).mappings
            owned = self._pagemap.private_pages(code(mappings))
            refuse_breakpoints(self._memory, mappings, owned)

    def _plant(self, choice: TrackerChoice) -> None:
        self._attach()
        try:
            with borrow(self._tracee, self._memory, self._gadgets) as loan:
                self.tracker = plant_tracker(choice, loan, self._watched)
            end_on_time(self._tracee, self._memory, self._gadgets)
            refuse_io_ports(self.pid, self._tracee.tid)
        finally:
            self._detach()

    def round(self, send: Send) -> RoundStat:
        """Send one round; exact once the process is frozen.

        TransferError where the process executes programs faster than a round of them can be sent.
        """
        with telling_death(self.pid):
            for _ in range(_EXECUTIONS):
                try:
                    self._follow_program(send)
                    return self._source.round(send, frozen=self._frozen)
                except (ProcessGone, OSError):
                    if not self._has_executed():
                        raise
        raise TransferError(
            f"process {self.pid} executes one program after another: {_EXECUTIONS} while its "
            "memory was sent once",
            hint="move it when it runs what it is to run, or with --mode stop-and-copy",
        )

    def _follow_program(self, send: Send) -> None:
        """Start over where the process has executed a program: all of its memory is other memory.

        One that has just begun, and has no C library yet, is tracked from a later round on.
        """
        if self._memory.is_gone():
            old = self.tracker, self._pagemap, self._memory
            self._open()
            for each in (*old, self.properties):
                each.close()
            self._source.clear(send)
            self.properties = self._source.properties = Properties(self.pid)
            if self._choice is not None:
                self.properties.watch()
            self._source.follow(self._watched, self.tracker)
            self._wanted = self._choice
        if self._wanted is not None and not self._frozen:
            with suppress(NotCarried):
                self._plant(self._wanted)
                self._wanted = None
            self._source.follow(self._watched, self.tracker)

    def _has_executed(self) -> bool:
        return self._memory.is_gone() and bool(procfs.read_areas(self.pid))

    def forget_files(self, paths: Iterable[str]) -> None:
        """Take note that the target has got these files anew, by the process's own paths."""
        self._source.forget_files(paths)

    def waiting(self) -> int:
        """Return the bytes of pages written since the last round."""
        with telling_death(self.pid):
            try:
                return self._source.waiting()
            except (ProcessGone, OSError):
                if not self._has_executed():
                    raise
                return int(procfs.read_stat(self.pid)[23]) * PAGE_SIZE

    def freeze(self) -> None:
        """Stop every thread, so that none runs an instruction any more.

        NotCarried where the container has got another process meanwhile, or its process another
        thread, or anything else that could not be carried; ProcessGone where it has ended.
        """
        with telling_death(self.pid):
            self._freeze()
            if self.foreign:
                self._leave_vdso()

    def _leave_vdso(self) -> None:
        """Let a process that is stopped within its vDSO go on, and stop it again, until it is not.

        Single steps would lead it out, but SIGTRAP would kill it where its tracer dies meanwhile.
        """
        deadline = time.monotonic() + _LEAVING
        while why := self._within_vdso():
            if time.monotonic() > deadline:
                raise NotCarried(
                    f"process {self.pid}: {why}",
                    hint="the target's kernel maps another vDSO, which has other code there; move "
                    "it later, or to a host with the same kernel",
                )
            self._tracee.resume()
            self._tracee.stop()
            if self._others():
                self._detach()
                self._frozen = False
                self._freeze()
            else:
                refuse_process(self.pid, mappings=False, tracer=threading.get_native_id())

    def _within_vdso(self) -> str:
        mappings = read_layout(self.pid, 0).mappings
        spans = [(each.start, each.end) for each in mappings if each.kind.has_entries]
        memory = Memory(self.pid)  # it may have executed a program meanwhile
        try:
            return within(self._tracee.true_registers(), memory, spans)
        finally:
            memory.close()

    def _freeze(self) -> None:
        self._freeze_alone()
        refuse_process(self.pid, mappings=False)
        self._tracee.attach()
        self._traced = True
        self._tracee.request_stop()
        self.freezer.thaw()
        self._tracee.await_stop()

    def _freeze_alone(self) -> None:
        """Freeze the process when nobody else is in the container, for whom it waits."""
        deadline = time.monotonic() + self.patience
        while True:
            self._tracee.look()
            self._frozen = True  # at least some of it, where freezing fails
            self.freezer.freeze()
            others = self._others()
            left = deadline - time.monotonic()
            if not others or left <= 0:
                break
            self._frozen = False
            self.freezer.thaw()
            await_end(others, left)
        self._refuse(others)

    def _others(self) -> list[int]:
        return [pid for pid in self.freezer.processes() if pid != self.pid]

    def _refuse(self, others: list[int]) -> None:
        if others:
            raise NotCarried(
                f"process {others[0]} ({procfs.read_status(others[0])['Name']}) came into the "
                "container while it was being moved",
                hint="this version moves containers of one process; end it, and move again",
            )

    def extract(self) -> Image:
        """Return everything but the pages of the frozen container."""
        self._source.refuse_breakpoints()
        descriptions = Descriptions(self.streams, self._pty)
        with (
            borrow(self._tracee, self._memory, self._gadgets) as loan,
            infected(loan) as stub,
        ):
            process = extract_process(self.pid, 0, loan, stub, descriptions)
        self._pending = int(procfs.read_status(self.pid)["ShdPnd"], 16)
        self._expected = late_signals.expected(process)
        if self._pty is not None:
            self._expected |= typed.KEYBOARD_MASK
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
        screen = terminal.read(self.pid, self._pty) if self._pty is not None else None
        return Image((process,), tuple(descriptions.found), clocks, unread, ended, screen)

    def seal(self) -> LateInput | None:
        """Hold the process by its cgroup alone, so that our death does not let it run.

        Returns its standard input, whose rest still has to be forwarded. NotCarried where another
        process has come in since it was stopped; where some may come in (``patience``), those are
        held, too, and end with it or go on with it.
        """
        self._hold()
        if not self.patience:
            self._refuse(self._others())
        return self._stdin if self._pty is None else typed.LateTyping(self._pty)

    def _hold(self) -> None:
        self.freezer.request_freeze()
        self._detach()
        self.freezer.freeze()

    def typed(self) -> Typed | None:
        """Take what was typed on the container's terminal, once the move is decided.

        None without a terminal. Raises OSError; what was typed is lost then. ``release`` puts it
        back, where the sealed process runs on after all.
        """
        if self._pty is None:
            return None
        settings = ttys.settings(self._pty.slave)
        self._taken = settings, Typed()
        found = typed.take(self._pty, self._pending, self.pid)
        self._taken = settings, found
        return found

    def refuse_signals(self) -> None:
        """Raise Cancelled for a signal that came after ``extract``, where nothing else carries it.

        Those of its timers come in the copy, too, and those of its keys are sent on (``typed``).
        """
        late_signals.refuse(self.pid, self._expected)

    def contents(self, chunk: int) -> Iterator[tuple[int, bytes]]:
        """Yield address and content of all pages that the frozen process owns."""
        for start, end in self._source.held():
            for address in range(start, end, chunk):
                yield address, self._memory.read(address, min(chunk, end - address))

    def kill(self) -> None:
        """End the sealed process: it gets SIGKILL before it is thawed, and runs no instruction."""
        self._let_go = threading.Thread(target=self.properties.close)
        self._let_go.start()  # the kernel takes half a second for it
        for pid in self.freezer.processes():
            with suppress(ProcessLookupError):  # others may have killed it
                os.kill(pid, signal.SIGKILL)
        self.freezer.thaw()

    def release(self, *, frozen: bool = False) -> None:
        """Let the process run as if nothing had been; one that is gone is no error.

        ``frozen``: somebody else holds it frozen too, and goes on with that. TransferError where
        its terminal did not take back what was typed; it runs all the same.
        """
        late = b""
        try:
            late = self._put_typed_back()
        finally:
            self._let_run(frozen=frozen)
        if late and self._pty is not None and (lost := feed(self._pty.master, late, _FEED_LIMIT)):
            raise TransferError(f"{lost} bytes that were typed found no room")

    def _put_typed_back(self) -> bytes:
        if self._pty is None or self._taken is None:
            return b""
        (settings, found), self._taken = self._taken, None
        return typed.put_back(self._pty, found, settings)

    def _let_run(self, *, frozen: bool) -> None:
        self.tracker.close()
        self.tracker = Everything(self._pagemap)
        try:
            if frozen:
                self._hold()
                return
            try:
                if self._frozen:
                    self._thaw_on_time()
            finally:
                self._detach()
        except (ProcessGone, FileNotFoundError):
            return
        finally:
            self._frozen = False

    def _thaw_on_time(self) -> None:
        """Thaw the process so that a call that it waits in ends when it would have ended."""
        call = self._tracee.call
        call.refresh()
        if call.starts_over() and not is_stopped(self.pid) and self._attach_again():
            deadline = call.deadline
            self._tracee.request_stop()
            self.freezer.thaw()
            self._tracee.await_stop()
            call.deadline = deadline
        self.freezer.thaw()
        if self._traced:
            end_on_time(self._tracee, self._memory, self._gadgets)

    def _attach_again(self) -> bool:
        """Attach to a sealed process; False where it is traced, by somebody else for one."""
        if not self._traced:
            with suppress(PermissionError):
                self._tracee.attach()
                self._traced = True
                return True
        return False

    def close(self) -> None:
        """Close what this side holds."""
        self.tracker.close()
        if self._let_go is not None:
            self._let_go.join()
        self.properties.close()
        self._pagemap.close()
        self._memory.close()
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None
        if self._pty is not None:
            self._pty.close()
            self._pty = None

    def _attach(self) -> None:
        self._tracee.attach()
        self._traced = True
        self._tracee.stop()

    def _detach(self) -> None:
        if self._traced:
            self._traced = False
            self._tracee.detach()
