"""Restartable sequences (rseq(2)): a thread that was stopped within one must abort it.

The kernel sees to that when a thread goes on at the instruction where it was stopped
(kernel/rseq.c, rseq_ip_fixup). One that was made to run other code first has lost its critical
section by then, and would go on within it: so we do as the kernel does, before.
"""

from __future__ import annotations

import struct

from livemig.system import ptrace
from livemig.system.memory import Memory
from livemig.system.ptrace import Registers

_SECTION_AT = 8  # rseq_cs in struct rseq, linux/rseq.h
_SECTION = struct.Struct("=IIQQQ")  # struct rseq_cs: version, flags, start, length, abort
_WORD = (1 << 64) - 1


def aborted(tid: int, registers: Registers, memory: Memory) -> Registers:
    """Return the registers that a stopped thread goes on with: at its abort handler, if need be.

    The thread is left as it is. It forgets its critical section as soon as it runs elsewhere
    (kernel/rseq.c, rseq_ip_fixup); one that is not made to, is aborted by the kernel.
    """
    try:
        address, _, signature, _ = ptrace.get_rseq(tid)
        place = memory.read(address + _SECTION_AT, 8) if address else bytes(8)
        section = int.from_bytes(place, "little")
        if not section:
            return registers
        _, _, start, length, handler = _SECTION.unpack(memory.read(section, _SECTION.size))
        found = memory.read(handler - 4, 4)
    except ProcessLookupError:
        raise
    except OSError:  # memory that is not there, or a kernel that does not tell: it decides later
        return registers
    if (registers.rip - start) & _WORD >= length or found != struct.pack("=I", signature):
        return registers
    changed = registers.copy()
    changed.rip = handler
    return changed
