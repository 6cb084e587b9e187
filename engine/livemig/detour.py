"""A way round for a call that would start over: made for the time that is left, it leaves no trace.

Some calls tell nobody how much of their time-out was left when a stop cut them short (sigtimedwait,
semtimedop, epoll_wait), and the program may look at the registers and the memory that told it. So
the call is made from a page of our own with a time-out of our own, and the page is gone when the
call is over: it stores the result in a signal frame below the program's stack, unmaps itself by a
system call instruction of the program, and rt_sigreturn on that frame ends the call. A handler
that runs meanwhile finds the program in the page, and comes back to it. A second stop finds the
thread there, where registers and time-out are ours to change.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from livemig import calls, sigframe
from livemig.calls import Timed, Unit
from livemig.system import procfs
from livemig.system.memory import PAGE_SIZE, Memory
from livemig.system.numbers import NR_MUNMAP
from livemig.system.procfs import PROT_WRITE
from livemig.system.ptrace import Registers

_RED_ZONE = 128
_TIME = 16  # bytes of our own time-out, right below the frame
_SYSCALL = b"\x0f\x05"
_KEEP = b"\x48\x89\x84\x24" + struct.pack("=i", _TIME + sigframe.RAX)  # mov %rax, rax(frame)
_LEAVE = b"\x48\x83\xc4\x10"  # add $16, %rsp
_HEAD = _SYSCALL + _KEEP + _LEAVE
_MILLIS_REGISTER = "r10"  # of epoll_wait and epoll_pwait, the only ones that count in these


class Gadgets(Protocol):
    """Instructions of the program: ``syscall; ret``, and one that does rt_sigreturn."""

    @property
    def call(self) -> int:
        """Address of the first."""

    @property
    def restorer(self) -> int:
        """Address of the other."""


def code(page: int, gadget: int) -> bytes:
    """Return what lies at the beginning of the page: the call, and the way back."""
    return (
        _HEAD
        + struct.pack("=2sQ", b"\x48\xbf", page)  # movabs $page, %rdi
        + struct.pack("=BI", 0xBE, PAGE_SIZE)  # mov $4096, %esi
        + struct.pack("=BI", 0xB8, NR_MUNMAP)  # mov $munmap, %eax
        + struct.pack("=2sQ", b"\x48\xb9", gadget)  # movabs $gadget, %rcx
        + b"\xff\xe1"  # jmp *%rcx
    )


def is_within(registers: Registers, memory: Memory) -> bool:
    """Tell whether a thread is in a call that is made from such a page."""
    start = registers.rip - len(_SYSCALL)
    if start % PAGE_SIZE:
        return False
    try:
        return memory.read(start, len(_HEAD)) == _HEAD
    except OSError:  # not mapped
        return False


def room(registers: Registers, xstate: bytes, memory: Memory) -> int | None:
    """Return where a frame can stay below the stack for a while, None where there is no room."""
    place = (registers.rsp - _RED_ZONE - sigframe.size(xstate)) & ~63
    for area in procfs.read_areas(memory.pid):
        if area.start <= registers.rsp <= area.end and area.prot & PROT_WRITE:
            return place if area.start + PAGE_SIZE <= place else None
    return None


@dataclass(frozen=True)
class Way:
    """What a way round is made of: a page, and a frame with the thread's state to come back to."""

    page: int
    gadgets: Gadgets
    frame: int
    xstate: bytes
    mask: int


def enter(
    registers: Registers,
    timed: Timed,
    left: int,
    way: Way,
    write: Callable[[int, bytes], None],
) -> Registers:
    """Write what a way round needs, and return the registers with which a thread takes it.

    ``left`` is in nanoseconds.
    """
    done = registers.copy()
    done.orig_rax = (1 << 64) - 1
    frame = sigframe.build(way.frame, done, way.xstate, way.mask, way.gadgets.restorer)
    write(way.frame, frame)
    write(way.page, code(way.page, way.gadgets.call))
    changed = registers.copy()
    changed.rip = way.page + len(_SYSCALL)
    changed.rsp = way.frame - _TIME
    if timed.unit is not Unit.MILLIS:
        setattr(changed, calls.time_register(registers), changed.rsp)
    return renewed(changed, timed, left, write)


def renewed(
    registers: Registers, timed: Timed, left: int, write: Callable[[int, bytes], None]
) -> Registers:
    """Return the registers with which a thread that is in such a page waits for what is left."""
    if timed.unit is not Unit.MILLIS:
        write(registers.rsp, calls.packed(left, timed.unit))
        return registers
    changed = registers.copy()
    setattr(changed, _MILLIS_REGISTER, -(-max(left, 0) // timed.unit.value))
    return changed
