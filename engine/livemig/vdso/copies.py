"""A copy of another kernel's vDSO: ordinary memory, whose entries lead into this kernel's own.

C libraries and Go's runtime look their vDSO's functions up once, and call them by address for good.
So where the kernel of a target maps other code, the source's image stays at its address, and each
entry in it jumps to the entry of the same name, or, where there is none, makes the system call.
Nothing else of the copy is ever run. A mark in its ELF header, where nobody looks, tells the next
source what it is, so that the next target leads it on, and no copy of a copy is made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from itertools import pairwise

from livemig.errors import MachineMismatch, ProtocolError
from livemig.system.memory import PAGE_SIZE
from livemig.vdso.image import MAX_IMAGE, entries

_PAD = 9  # e_ident[EI_PAD], seven bytes that are reserved
_MARK = struct.Struct("<4sBH")  # magic, version, pages
_MAGIC, _VERSION = b"LMIG", 1
HEAD = _PAD + _MARK.size
"""Bytes of memory that tell whether a copy begins there."""

_JUMP = b"\xff\x25\0\0\0\0"  # jmp *0(%rip)
_ROOM = len(_JUMP) + 8


def _call(number: int) -> bytes:
    """Return code that makes a system call with the arguments that it was called with."""
    return b"\xb8" + struct.pack("<I", number) + b"\x0f\x05\xc3"  # mov $number, %eax; syscall; ret


# A vDSO's function returns what the system call does, errors included. getrandom has two more
# arguments: (0, 0, 0, place, -1) asks what state it needs, and what is no success there is the
# answer that it must not be used; for a state of another size than its own it makes the call, as
# the one without a state (lib/vdso/getrandom.c). Without an enclave there is none to enter, and
# the answer is -ENOSYS (arch/x86/include/uapi/asm/sgx.h).
_CALLS = {
    "clock_getres": _call(229),
    "clock_gettime": _call(228),
    "getcpu": _call(309),
    "gettimeofday": _call(96),
    "time": _call(201),
    "getrandom": (
        b"\x49\x83\xf8\xff\x75\x12"  # cmp $-1, %r8; jne 1f
        b"\x89\xd1\x48\x09\xf9\x48\x09\xf1\x75\x08"  # mov %edx, %ecx; or %rdi, %rcx; or %rsi, %rcx
        b"\x48\xc7\xc0\xda\xff\xff\xff\xc3" + _call(318)  # jne 1f; mov $-ENOSYS, %rax; ret; 1:
    ),
    "sgx_enter_enclave": b"\xb8\xda\xff\xff\xff\xc3",  # mov $-ENOSYS, %eax; ret
}


def copy_size(head: bytes) -> int:
    """Return the length in bytes of the copy that begins with ``head``; 0 where none does."""
    if len(head) < HEAD:
        return 0
    magic, version, pages = _MARK.unpack_from(head, _PAD)
    if not head.startswith(b"\x7fELF") or (magic, version) != (_MAGIC, _VERSION):
        return 0
    return pages * PAGE_SIZE if 0 < pages * PAGE_SIZE <= MAX_IMAGE else 0


def lead(image: bytes, there: Mapping[str, int]) -> bytes:
    """Return the copy of an image whose entries lead to those at the addresses ``there``, by name.

    The image may be a copy. Raises ProtocolError as ``entries`` does, and MachineMismatch, naming
    it, for a function that would lead nowhere.
    """
    found = entries(image)
    if missing := sorted(set(found) - set(there) - set(_CALLS)):
        here, names = os.uname(), ", ".join(missing)
        raise MachineMismatch(
            f"the vDSO of {here.nodename} ({here.release}) lacks {names}, which the source's has",
            hint="a program may have kept its address; move to a host with a newer kernel",
        )
    copy = bytearray(image)
    places = sorted({*found.values(), len(image)})
    rooms = {start: end - start for start, end in pairwise(places)}
    written: dict[int, bytes] = {}
    for name, place in found.items():
        code = _JUMP + struct.pack("<Q", there[name]) if name in there else _CALLS[name]
        if written.setdefault(place, code) != code or rooms[place] < max(len(code), _ROOM):
            raise ProtocolError(f"the image of a vDSO has no room for {name}")
        copy[place : place + len(code)] = code
    _MARK.pack_into(copy, _PAD, _MAGIC, _VERSION, len(image) // PAGE_SIZE)
    if entries(bytes(copy)) != found:
        raise ProtocolError("the image of a vDSO has functions where its tables are")
    return bytes(copy)
