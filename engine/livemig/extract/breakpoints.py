"""Breakpoints in a program's code that another has set: uprobes (perf, eBPF), and debuggers.

A page that holds one is the process's own from then on. On another host nobody would know of it,
and it would end the program.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from livemig.errors import NotCarried
from livemig.intervals import Span, clipped
from livemig.model import Kind, Mapping
from livemig.system.memory import PAGE_SIZE, Memory
from livemig.system.procfs import PROT_EXEC, PROT_WRITE

_BREAKPOINT = 0xCC  # int3; UPROBE_SWBP_INSN in the kernel's arch/x86/include/asm/uprobes.h
_AT_ONCE = 1 << 20


def code(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Return the mappings of files that a process can execute, and not write to."""
    return [
        each
        for each in mappings
        if each.kind is Kind.FILE and each.prot & (PROT_EXEC | PROT_WRITE) == PROT_EXEC
    ]


def refuse_breakpoints(memory: Memory, mappings: Iterable[Mapping], owned: list[Span]) -> None:
    """Raise NotCarried where a page of code differs from its file by breakpoints alone.

    ``owned`` are pages that belong to the process alone: others show their file.
    """
    for mapping in code(mappings):
        if spans := clipped(owned, mapping.start, mapping.end):
            try:
                _look_through(memory, mapping, spans)
            except ProcessLookupError:
                raise
            except OSError:  # unmapped meanwhile
                continue


def _look_through(memory: Memory, mapping: Mapping, spans: list[Span]) -> None:
    link = f"/proc/{memory.pid}/map_files/{mapping.start:x}-{mapping.end:x}"
    with open(link, "rb", buffering=0) as file:
        for start, end in spans:
            for address in range(start, end, _AT_ONCE):
                length = min(_AT_ONCE, end - address)
                offset = mapping.offset + address - mapping.start
                shown = os.pread(file.fileno(), length, offset).ljust(length, b"\0")
                place = _first_breakpoint(memory.read(address, length), shown)
                if place is not None:
                    raise _refused(memory.pid, address + place, mapping.path)


def _first_breakpoint(found: bytes, shown: bytes) -> int | None:
    """Return where the first is, in a page that differs from its file by nothing else."""
    there, before = (
        np.frombuffer(each, np.uint8).reshape(-1, PAGE_SIZE) for each in (found, shown)
    )
    changed = there != before
    alone = changed.any(axis=1) & (~changed | (there == _BREAKPOINT)).all(axis=1)
    if not alone.any():
        return None
    page = int(alone.argmax())
    return page * PAGE_SIZE + int(changed[page].argmax())


def _refused(pid: int, address: int, path: str) -> NotCarried:
    return NotCarried(
        f"process {pid}: a breakpoint at {address:#x} ({path}), which another program has set "
        "(uprobe, debugger), cannot be carried",
        hint="end what looks into it (perf, bpftrace, a debugger), and move again",
    )
