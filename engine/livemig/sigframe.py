"""The signal frame that leads a thread back: what rt_sigreturn restores on x86_64.

Source: arch/x86/include/asm/sigframe.h, arch/x86/kernel/signal_64.c and
arch/x86/kernel/fpu/signal.c.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from livemig.calls import restarted
from livemig.system.ptrace import Registers

_UC_FLAGS = 1 | 2 | 4  # UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
_NO_ALTSTACK = 0x7777  # no valid mode: rt_sigreturn then leaves the alternate stack alone
_MAGIC1 = 0x46505853
_MAGIC2 = 0x46505845
_SW_RESERVED = 464  # where the legacy area keeps a word for the signal frame
_IN_USE = 512  # XSTATE_BV
_TILES = 1 << 18  # AMX's eight tiles, the last of all that XSAVE knows (Intel SDM vol. 1, 13.1)
_TILES_SIZE = 8 * 1024
_SIGCONTEXT_ORDER = (
    "r8 r9 r10 r11 r12 r13 r14 r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags"
).split()
_SIGCONTEXT = 40
_SIGINFO = 128
RAX = 8 + _SIGCONTEXT + 8 * _SIGCONTEXT_ORDER.index("rax")  # where a frame holds it
FRAME_SIZE = 8 + _SIGCONTEXT + 256 + 8 + _SIGINFO
# Words of a frame: the instruction pointer, the segments (cs, gs, fs, ss), the extended state.
_RIP_AT = 1 + _SIGCONTEXT // 8 + _SIGCONTEXT_ORDER.index("rip")
_SEGMENTS_AT, _FPSTATE_AT = _RIP_AT + 2, _RIP_AT + 7
_SEGMENTS = 0x2B << 48 | 0x33  # of 64-bit programs: __USER_DS, 0, 0, __USER_CS
_ALWAYS = 2  # the bit of the flags register that is always set


def holds_tiles(xstate: bytes) -> bool:
    """Tell whether the tiles of a state (XSAVE standard format, or nothing) are in use."""
    return len(xstate) > _IN_USE and bool(_in_use(xstate) & _TILES)


def _in_use(xstate: bytes) -> int:
    return int.from_bytes(xstate[_IN_USE : _IN_USE + 8], "little")


def size(xstate: bytes) -> int:
    """Return the room that a frame with this extended state takes at most, in bytes."""
    return FRAME_SIZE + len(xstate) + 4 + 2 * 64


def build(address: int, registers: Registers, xstate: bytes, mask: int, back: int = 0) -> bytes:
    """Return the bytes of a frame that lies at ``address``; a return to ``back`` finds it.

    rt_sigreturn with the stack pointer at ``address + 8`` restores ``registers``, ``xstate`` (XSAVE
    standard format, at least 576 bytes) and the signal mask; an interrupted call starts again.
    """
    fpstate = (address + FRAME_SIZE + 63) & ~63
    again = restarted(registers)
    context = struct.pack(
        "=18Q4H3Q",
        *(getattr(again, name) for name in _SIGCONTEXT_ORDER),
        again.cs & 0xFFFF,
        0,
        0,
        again.ss & 0xFFFF,
        0,
        0,
        0,
    )
    context += struct.pack("=QQ", 0, fpstate)  # cr2, fpstate
    frame = struct.pack("=QQQQiiQ", back, _UC_FLAGS, 0, 0, _NO_ALTSTACK, 0, 0)
    frame += context.ljust(256, b"\0") + struct.pack("=Q", mask)
    frame += bytes(_SIGINFO)
    frame += bytes(fpstate - address - len(frame))
    return frame + _signal_xstate(xstate)


def saved(stack: bytes, address: int) -> list[tuple[int, int]]:
    """Return instruction and stack pointer of each frame of the kernel's on a stack.

    ``stack`` are the bytes from ``address`` on, both multiples of 8. A frame that nobody returns to
    any more is found as long as nothing was written over it.
    """
    words = np.frombuffer(stack, np.uint64)
    frames = [int(index) - _SEGMENTS_AT for index in np.flatnonzero(words == _SEGMENTS)]
    return [
        (int(words[first + _RIP_AT]), int(words[first + _RIP_AT - 1]))
        for first in frames
        if first >= 0 and _is_whole(stack, words, first, address)
    ]


def _is_whole(stack: bytes, words: Any, first: int, address: int) -> bool:
    if first + FRAME_SIZE // 8 > len(words):
        return False
    flags, eflags, fpstate = (int(words[first + at]) for at in (1, _RIP_AT + 1, _FPSTATE_AT))
    place = fpstate - address + _SW_RESERVED
    if flags & ~_UC_FLAGS or not eflags & _ALWAYS or not 0 <= place <= len(stack) - 4:
        return False
    return struct.unpack_from("=I", stack, place) == (_MAGIC1,)


def _signal_xstate(xstate: bytes) -> bytes:
    """Return the state as a frame holds it.

    Where a thread has not used AMX's tiles, the kernel has no room for them in it, and takes of a
    larger state the legacy area alone (check_xstate_in_sigframe, since Linux 5.16).
    """
    features = struct.unpack_from("=Q", xstate, _SW_RESERVED)[0]
    if features & _TILES and not holds_tiles(xstate):
        xstate, features = xstate[:-_TILES_SIZE], features & ~_TILES
    header = struct.pack("=IIQI", _MAGIC1, len(xstate) + 4, features, len(xstate))
    state = bytearray(xstate)
    state[_SW_RESERVED : _SW_RESERVED + 48] = header.ljust(48, b"\0")
    return bytes(state) + struct.pack("=I", _MAGIC2)
