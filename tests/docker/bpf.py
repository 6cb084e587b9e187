"""What a seccomp filter decides: classic BPF, as the kernel runs it (kernel/bpf, seccomp(2))."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

X86_64, I386 = 0xC000003E, 0x40000003
X32 = 0x40000000
ERRNO = 0x00050000
_DATA = struct.Struct("=iIQ6Q")
_ARGUMENTS = ((0,) * 6, (2**64 - 1,) * 6, (0x7E020000,) * 6, (8,) * 6, (40,) * 6)
_NUMBERS = range(480)


def decide(program: bytes, number: int, arch: int, arguments: Sequence[int] = (0,) * 6) -> int:
    """Return what the filter answers to a system call."""
    data = _DATA.pack(number, arch, 0, *arguments)
    accumulator, at = 0, 0
    while True:
        code, yes, no, constant = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:  # ld [k]
            accumulator = struct.unpack_from("=I", data, constant)[0]
        elif code == 0x54:  # and #k
            accumulator &= constant
        elif code == 0x05:  # ja k
            at += constant
        elif code == 0x06:  # ret #k
            return int(constant)
        else:
            at += yes if _holds(code, accumulator, constant) else no


def _holds(code: int, value: int, constant: int) -> bool:
    if code == 0x15:
        return value == constant
    if code == 0x25:
        return value > constant
    if code == 0x35:
        return value >= constant
    if code == 0x45:
        return bool(value & constant)
    raise AssertionError(f"instruction {code:#x} is not known")


def verdicts(program: bytes) -> list[int]:
    """Return its answers to every system call of every architecture, with a few arguments."""
    return [decide(program, number, arch, words) for number, arch, words in _calls()]


def _calls() -> Iterator[tuple[int, int, tuple[int, ...]]]:
    for words in _ARGUMENTS:
        for number in _NUMBERS:
            yield number, X86_64, words
            yield number | X32, X86_64, words
            yield number, I386, words
