"""Borrow a thread of a running application: make it do system calls, give it back unharmed.

The verbs are those of CRIU's compel: infect, cure. The difference is that the death of the tracer
at any instant leaves the application running: a borrowed thread always has a way back on its own,
a signal frame below its stack to which every piece of code that it is made to run returns.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from livemig import rseq, sigframe
from livemig.berth import berths
from livemig.errors import InternalError, NotCarried, ProcessGone
from livemig.layout import LOWEST, free_hole
from livemig.stub.runner import ALL_SIGNALS, END_SIGNALS, SIZE, Stub
from livemig.system import procfs, ptrace
from livemig.system.memory import PAGE_SIZE, Memory
from livemig.system.numbers import NR_MMAP, NR_MUNMAP
from livemig.system.procfs import PROT_EXEC, PROT_READ, PROT_WRITE
from livemig.system.ptrace import Registers, signed
from livemig.tracing import StillRuns, Tracee, telling_death

MAP_PRIVATE_ANONYMOUS = 0x22
_MAP_FIXED, _MAP_FIXED_NOREPLACE = 0x10, 0x100000
_SYSCALL_RETURN = b"\x0f\x05\xc3"  # syscall; ret
_RESTORERS = (
    b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05",  # mov $15, %rax; syscall
    b"\xb8\x0f\x00\x00\x00\x0f\x05",  # mov $15, %eax; syscall
)
_CODE_SEGMENTS = (0x33, 0xE033)  # __USER_CS of asm/segment.h; Xen's FLAT_USER_CS64
_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)  # of others these are blocked meanwhile


@dataclass(frozen=True)
class Gadgets:
    """Instructions that the application itself has mapped."""

    call: int  # syscall; ret
    restorer: int  # rt_sigreturn


def find_gadgets(pid: int, memory: Memory) -> Gadgets:
    """Find a system call instruction and a signal restorer in the program's own code.

    Every C library and Go's runtime bring both. Code that was made while the program ran, or that
    can be written to, may be something else soon. Raises NotCarried where they are missing.
    """
    call = restorer = 0
    for area in procfs.read_areas(pid):
        if area.prot != PROT_READ | PROT_EXEC or not area.name.startswith("/"):
            continue
        code = _read_file(memory.pid, area)
        call = call or _find(code, area.start, (_SYSCALL_RETURN,))
        restorer = restorer or _find(code, area.start, _RESTORERS)
        if call and restorer and _are_there(found := Gadgets(call, restorer), memory):
            return found
    raise NotCarried(
        f"process {pid}: its code holds no system call instruction that could be borrowed",
        hint="programs with neither a C library nor Go's runtime cannot be moved",
    )


def _are_there(gadgets: Gadgets, memory: Memory) -> bool:
    """Tell whether the instructions are where they were found: libraries come and go."""
    return all(
        _read_code(memory, place, max(map(len, patterns))).startswith(patterns)
        for place, patterns in (
            (gadgets.call, (_SYSCALL_RETURN,)),
            (gadgets.restorer, _RESTORERS),
        )
    )


def _read_file(pid: int, area: procfs.Area) -> bytes:
    """Return what the file behind an area has: to read the memory would map all of it in.

    Nothing where it is not mapped any more.
    """
    try:
        with open(f"/proc/{pid}/map_files/{area.start:x}-{area.end:x}", "rb") as file:
            file.seek(area.offset)
            return file.read(area.end - area.start)
    except FileNotFoundError:
        return b""


def _read_code(memory: Memory, start: int, length: int) -> bytes:
    """Return memory, nothing where it is not mapped any more or lies beyond a file's end."""
    try:
        return memory.read(start, length)
    except ProcessLookupError:
        raise
    except OSError:
        return b""


def _find(code: bytes, start: int, patterns: tuple[bytes, ...]) -> int:
    for pattern in patterns:
        if (place := code.find(pattern)) >= 0:
            return start + place
    return 0


def _refuse_harm(pid: int, tid: int) -> None:
    """Raise NotCarried for a stopped thread that calls of its tracer's would harm."""
    if ptrace.dispatches_calls(tid):
        raise NotCarried(
            f"process {pid} sends its system calls to a handler of its own "
            "(PR_SET_SYSCALL_USER_DISPATCH), which cannot be carried",
            hint="start its program without Syscall User Dispatch",
        )
    if (segment := ptrace.get_registers(tid).cs) not in _CODE_SEGMENTS:
        raise NotCarried(
            f"process {pid}: thread {tid} runs 32-bit code (segment {segment:#x}), which cannot be "
            "carried",
            hint="this version carries programs of 64-bit code",
        )


class Loan:
    """A stopped thread that makes single system calls for its tracer.

    Between ``__init__`` and ``give_back`` the thread's registers lead into the frame. What the
    frame covers is put back in the end: below a small stack lies something else. Raises NotCarried,
    before it has changed anything, for a thread that cannot be borrowed.
    """

    def __init__(self, tracee: Tracee, memory: Memory, gadgets: Gadgets) -> None:
        self.tracee = tracee
        self.memory = memory
        _refuse_harm(memory.pid, tracee.tid)
        self.registers = rseq.aborted(tracee.tid, tracee.true_registers(), memory)
        self.xstate = ptrace.get_xstate(tracee.tid)
        self.mask = ptrace.get_sigmask(tracee.tid)
        if not _are_there(gadgets, memory):
            gadgets = find_gadgets(memory.pid, memory)
        self._gadgets = gadgets
        self.areas = procfs.read_areas(memory.pid)
        self._room = sigframe.size(self.xstate) + 64
        self._place_frames()
        self._borrowed = self.registers.copy()
        self._borrowed.orig_rax = (1 << 64) - 1
        self._borrowed.rip = gadgets.restorer
        self._borrowed.rsp = self._frame + 8
        self.way_back = self._frame
        ptrace.set_registers(tracee.tid, self._borrowed)
        ptrace.set_sigmask(tracee.tid, ALL_SIGNALS)

    @property
    def gadgets(self) -> Gadgets:
        """The program's instructions that are borrowed."""
        return self._gadgets

    def _place_frames(self) -> None:
        """Put the frame that leads back on a stack, and keep room for one more below it."""
        for rooms in (2, 1):
            pointer = int(self.registers.rsp)
            for place in berths(self.memory, self.areas, pointer, rooms * self._room):
                address = place & ~63
                self._frame = address + (rooms - 1) * (self._room & ~63)
                try:
                    covered = self.memory.read(address, rooms * self._room)
                    self._write_frame(self._frame, self.registers, self.mask)
                except ProcessLookupError:
                    raise
                except OSError:  # no memory there, and none to be had
                    continue
                self._lowest, self._covered = address, covered
                return
        raise NotCarried(
            f"process {self.memory.pid}: thread {self.tracee.tid} has no room for a signal "
            f"frame on the process's first stack (stack pointer {self.registers.rsp:#x})",
            hint="raise the limit of its stack (`docker run --ulimit stack`)",
        )

    def _write_frame(self, address: int, registers: Registers, mask: int) -> None:
        frame = sigframe.build(address, registers, self.xstate, mask, self._gadgets.restorer)
        self.memory.write(address, frame)

    def call(self, name: str, number: int, *arguments: int) -> int:
        """Make one system call; OSError, naming it, where it fails."""
        registers = self._borrowed.calling(self._gadgets.call, number, *arguments)
        registers.rsp = self.way_back
        ptrace.set_registers(self.tracee.tid, registers)
        self._to_syscall_stop()
        self._to_syscall_stop()
        result = signed(ptrace.get_registers(self.tracee.tid).rax)
        if -4096 < result < 0:
            raise OSError(-result, f"{name} in process {self.memory.pid}: {os.strerror(-result)}")
        return result

    @contextmanager
    def undone_by(self, number: int, *arguments: int) -> Iterator[None]:
        """For the length of a scope, let the death of the tracer add one more call to the way back.

        It undoes what the scope makes in the process, and must do no harm before or after that.
        Where a thread has too little stack for a second frame, the death leaves it undone.
        """
        if self._lowest == self._frame:
            yield
            return
        call = self._borrowed.calling(self._gadgets.call, number, *arguments)
        call.rsp = self._frame
        self._write_frame(self._lowest, call, ALL_SIGNALS)
        self.way_back = self._lowest
        try:
            yield
        finally:
            self.way_back = self._frame
            with suppress(ProcessLookupError):
                ptrace.set_registers(self.tracee.tid, self._borrowed)

    def _to_syscall_stop(self) -> None:
        while True:
            ptrace.cont_to_syscall(self.tracee.tid)
            stop = self.tracee.wait()
            if stop.signal == ptrace.SYSCALL_STOP:
                return
            if stop.event == 0 and stop.signal in _FAULTS:
                place = ptrace.get_registers(self.tracee.tid).rip
                raise InternalError(f"thread {self.tracee.tid} crashed at {place:#x} when borrowed")
            if stop.event == 0:
                self.tracee.held_signals.append(stop.signal)

    def give_back(self) -> None:
        """Restore the thread as it was; it stays stopped, and an interrupted call goes on later."""
        tid = self.tracee.tid
        self.tracee.enter_signal_stop()
        ptrace.set_sigmask(tid, self.mask)
        ptrace.set_registers(tid, self.registers)
        self.memory.write(self._lowest, self._covered)
        for number in self.tracee.held_signals:
            os.kill(self.memory.pid, number)
        self.tracee.held_signals.clear()


@contextmanager
def borrow(tracee: Tracee, memory: Memory, gadgets: Gadgets) -> Iterator[Loan]:
    """Borrow a stopped thread for the length of a scope; it is stopped, and as before, after it.

    Raises ProcessGone where the process ends meanwhile.
    """
    with telling_death(memory.pid):
        loan = Loan(tracee, memory, gadgets)
        with _undone_by(loan.give_back):
            yield loan


@contextmanager
def _undone_by(undo: Callable[[], object]) -> Iterator[None]:
    """Call ``undo`` at the end of a scope, unless there is nothing any more to undo it in.

    A thread that cannot be stopped undoes it by itself: its way back leads there.
    """
    try:
        yield
    except (ProcessGone, StillRuns):
        raise
    except BaseException:
        undo()
        raise
    else:
        undo()


def end_signal(used: int) -> int:
    """Return the signal that ends a stub's run, one that the application has no use for.

    ``used`` are the signals that it catches, or blocks: one that is blocked may be pending, and
    would be lost where the run lets it through.
    """
    for number in END_SIGNALS:
        if not used & (1 << (number - 1)):
            return number
    raise NotCarried(
        "the process catches or blocks SIGURG, SIGWINCH and SIGCHLD alike",
        hint="one of these signals must be neither caught nor blocked",
    )


@contextmanager
def infected(loan: Loan) -> Iterator[Stub]:
    """Put the stub into the process of a borrowed thread, and take it out at the scope's end.

    Our death takes it out as well: it lies in a hole that is known before it is mapped.
    """
    base = free_hole([(area.start, area.end) for area in loan.areas], SIZE, LOWEST)
    with loan.undone_by(NR_MUNMAP, base, SIZE):
        flags = MAP_PRIVATE_ANONYMOUS | _MAP_FIXED_NOREPLACE
        loan.call("mmap", NR_MMAP, base, SIZE, PROT_READ | PROT_EXEC, flags, -1, 0)
        with _undone_by(lambda: loan.call("munmap", NR_MUNMAP, base, SIZE)):
            yield _installed(loan, base)


def _installed(loan: Loan, base: int) -> Stub:
    writable, rest = PROT_READ | PROT_WRITE, SIZE - PAGE_SIZE
    flags = MAP_PRIVATE_ANONYMOUS | _MAP_FIXED
    loan.call("mmap", NR_MMAP, base + PAGE_SIZE, rest, writable, flags, -1, 0)
    caught = int(procfs.read_status(loan.memory.pid)["SigCgt"], 16)
    end = end_signal(caught | loan.mask)
    stub = Stub(loan.tracee, loan.memory, base, end=end, frame=loan.way_back + 8)
    stub.install()
    return stub
