"""A process on its way in: a held shell that is laid out, filled, and becomes the one that left."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from livemig import terminal, typed
from livemig.errors import ProtocolError, StateMismatch
from livemig.extract.mappings import digest_file
from livemig.freezer import Freezer
from livemig.inject import Held, droppable, lay_out_by, rebuild
from livemig.inject.advice import seal as seal_memory
from livemig.inject.calls import going_on
from livemig.inject.check import check
from livemig.inject.foreign import ForeignVdso
from livemig.inject.memory import PageWriter
from livemig.inject.process import set_registers
from livemig.inject.residence import forbid_huge, prepare
from livemig.inject.scheduling import set_scheduling
from livemig.inject.verify import verify, verify_absent, verify_thread
from livemig.intervals import Span
from livemig.layout import LayoutBackend, difference, settled
from livemig.model import Image, LayoutChoice, MappedFile, Mapping, Process, Typed
from livemig.pages import Batch
from livemig.refusing import refusing
from livemig.relocation import relocate
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.stdin import feed, inode, make_room
from livemig.system import handles
from livemig.system.memory import PAGE_SIZE, USER_END, user_start

FEED_LIMIT = 10.0
READ_LIMIT = 1 << 20


class Incoming:
    """One process that arrives in the held first process ``pid`` of a container.

    LAYOUT, PAGES and ROUND_END frames come in any number, then one image; ``seal`` leaves the
    process complete, frozen and untraced, so that thawing its cgroup is all that is left to do.
    Until then it dies with us. ``layout`` says what is to lay its memory out.
    """

    def __init__(self, pid: int, freezer: Freezer, *, layout: LayoutChoice = "auto") -> None:
        self.pid = pid
        self._choice = layout
        self._freezer = freezer
        self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._pty = terminal.find(pid)
        self._stdin = _writer(pid) if self._pty is None else None
        self._held = Held(pid)
        self._layout: LayoutBackend | None = None
        self._vdso = ForeignVdso()
        self._writer = PageWriter(self._held)
        self._mappings: Sequence[Mapping] = ()
        self._verify = False
        self._late = b""

    @property
    def backend(self) -> str:
        """Which back end lays the memory out; empty before the first layout."""
        return self._layout.name if self._layout else ""

    @property
    def passed_over(self) -> str:
        """Why the device that this host has does not do it; empty where it does, or is none."""
        return self._layout.passed_over if self._layout else ""

    @property
    def stdin_inode(self) -> int:
        """What tells the container's standard input from every other file; 0 without one."""
        return inode(self._stdin)

    @refusing("laying out memory")
    def follow(self, update: LayoutUpdate) -> None:
        """Lay the memory out as the source has it now.

        StateMismatch where a mapped file differs here, MachineMismatch where the vDSO has what
        this one lacks, KernelLacks where the device was chosen and does not take the process.
        """
        wanted = update.layout.mappings
        _check_order(wanted)
        for file in update.files:
            self._check_file(file)
        if self._layout is None:
            self._held.take(wanted)
            forbid_huge(self._held)
            self._layout = lay_out_by(self._choice, self._held, self._root)
        self._mappings = relocate(self._mappings, update.moves)
        _check_order(self._mappings)
        self._held.avoid([*wanted, *self._mappings])
        here = droppable.adapted(self._vdso.follow(wanted, update.vdsos))
        here = settled(self._mappings, here)
        change = difference(self._mappings, here, {file.path for file in update.files})
        self._layout.move(update.moves)
        self._layout.apply(change)
        self._mappings = here
        self._writer.follow(wanted)
        prepare(self._held, update.residence, here)

    def _check_file(self, file: MappedFile) -> None:
        try:
            descriptor = handles.open_file_in_root(self._root, file.path, os.O_RDONLY)
        except OSError as error:
            raise StateMismatch(f"{file.path} is missing on the target: {error}") from error
        try:
            if digest_file(descriptor, file.path) != file:
                raise StateMismatch(f"{file.path} has other content on the target")
        finally:
            os.close(descriptor)

    @refusing("writing pages")
    def write(self, batch: Batch, payload: bytes | memoryview) -> None:
        """Write the pages of one frame."""
        self._require_layout()
        self._writer.apply(batch, payload)

    @refusing("ending a round")
    def end_round(self, end: RoundEnd) -> None:
        """Give up the pages that the source does not have any more."""
        self._require_layout()
        self._writer.drop(end.dropped)

    def _require_layout(self) -> LayoutBackend:
        if self._layout is None:
            raise ProtocolError("pages came before the layout that they belong to")
        return self._layout

    @refusing("rebuilding the process")
    def rebuild(
        self, image: Image, *, filters: int = 0, sent: Sequence[Span] | None = None
    ) -> None:
        """Build everything but the pages; raises OSError naming the step, StateMismatch.

        With ``sent``, the pages that were sent, all is read back and compared, ``seal`` included.
        ``filters`` is the number of seccomp filters that the held process started with, which the
        caller knows to do what the first ones of the image do.
        """
        layout = self._require_layout()
        if len(image.processes) != 1 or len(image.processes[0].threads) != 1:
            raise ProtocolError("this version takes one process with one thread")
        process = image.processes[0]
        _check_descriptors(image, process)
        self._take_terminal(image)
        self._mappings = self._vdso.complete(self._held, layout, self._mappings)
        rebuild(self._held, process, image, self._root, filters=filters, terminal=self._pty)
        seal_memory(self._held, self._mappings)
        check(self.pid, process, self._mappings, self._held.stub.base)
        self._verify = sent is not None
        if sent is not None:
            verify(self._held, image, self._mappings, filters, self._pty)
            verify_absent(self._held, self._mappings, sent)
            self._vdso.verify(self._held, self._mappings)

    def _take_terminal(self, image: Image) -> None:
        if (self._pty is None) is not (image.terminal is None):
            raise StateMismatch("one of the two containers has a terminal, the other has none")
        if self._pty is not None and image.terminal is not None:
            terminal.apply(self._pty, image.terminal)

    @refusing("sealing the process")
    def seal(self, image: Image) -> None:
        """Give the process its registers, freeze it, and stop tracing it."""
        thread = image.processes[0].threads[0]
        registers = going_on(self._held, thread)
        self._held.leave()
        set_registers(self._held, thread, registers)
        set_scheduling(self.pid, thread.scheduling)
        if self._verify:
            verify_thread(self.pid, thread, registers)
        self._freezer.request_freeze()
        self._held.release()
        self._freezer.freeze()
        if not image.stdin_ended:
            self._feed_all(image.stdin)

    def _feed_all(self, data: bytes) -> None:
        if self._stdin is not None:
            make_room(self._stdin, len(data))
        if lost := self.feed(data):
            raise StateMismatch(f"{lost} bytes of its standard input found no room on the target")

    def thaw(self) -> None:
        """Let the process run."""
        self._freezer.thaw()

    @refusing("putting in what was typed")
    def put_typed(self, found: Typed) -> None:
        """Put what was typed on the source's terminal into this one; the process is sealed."""
        if self._pty is None:
            raise ProtocolError("what was typed came for a container without a terminal")
        self._late = typed.put(self._pty, found)

    def feed(self, data: bytes) -> int:
        """Put data into the standard input; returns the bytes that found no room in time."""
        data, self._late = self._late + data, b""
        if not data:
            return 0
        into = self._stdin if self._pty is None else self._pty.master
        return len(data) if into is None else feed(into, data, FEED_LIMIT)

    @refusing("comparing memory")
    def read(self, start: int, length: int) -> bytes:
        """Return memory of the process, for comparing it: at most READ_LIMIT bytes."""
        if not 0 < length <= READ_LIMIT:
            raise ProtocolError(f"{length} bytes were to be compared at once")
        return self._held.memory.read(start, length)

    def close(self) -> None:
        """Close what this side holds; a process that is not sealed dies."""
        self._held.close()
        if self._layout is not None:
            self._layout.close()
        for descriptor in (self._root, self._stdin):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._root, self._stdin = -1, None
        if self._pty is not None:
            self._pty.close()


def _writer(pid: int) -> int | None:
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(f"/proc/{pid}/fd/0", flags)
    except OSError:
        return None
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):  # the container was started without -i
        os.close(descriptor)
        return None
    return descriptor


def _check_descriptors(image: Image, process: Process) -> None:
    numbers = [each.number for each in process.descriptors]
    if len(set(numbers)) != len(numbers) or any(number < 0 for number in numbers):
        raise ProtocolError("the list of descriptors has one twice, or one below 0")
    for each in process.descriptors:
        if not 0 <= each.description < len(image.descriptions):
            raise ProtocolError(f"descriptor {each.number} refers to nothing")


def _check_order(mappings: Sequence[Mapping]) -> None:
    end = 0
    for mapping in mappings:
        if mapping.start < end or mapping.end <= mapping.start:
            raise ProtocolError(f"the layout overlaps itself at {mapping.start:#x}")
        if mapping.start % PAGE_SIZE or mapping.end % PAGE_SIZE or mapping.end > USER_END:
            raise ProtocolError(f"the layout has no mapping of pages at {mapping.start:#x}")
        if mapping.start < user_start():  # a NULL pointer of its kernel finds it
            raise ProtocolError(f"the layout is below vm.mmap_min_addr at {mapping.start:#x}")
        end = mapping.end
