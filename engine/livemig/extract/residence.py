"""How the pages of a process lie in memory: huge pages, and pages of files that are mapped in.

That is no state that a program could rely on, but it is what its speed and its size rest on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from livemig.intervals import Span, merged
from livemig.model import Kind, Mapping, Residence
from livemig.system.entries import FILE, FRAME, PRESENT, chosen_spans, read_entries, read_entry
from livemig.system.memory import PAGE_SIZE

HUGE_SIZE = 2 << 20
_THP, _ZERO_PAGE = (
    1 << 22,
    1 << 24,
)  # KPF_THP and KPF_ZERO_PAGE of /proc/kpageflags (Documentation/admin-guide/mm/pagemap.rst)


def read_residence(pagemap: int, mappings: Sequence[Mapping], huge: Iterable[Span]) -> Residence:
    """Return where the mappings have huge pages, ``huge`` being areas that hold some, and files."""
    files = [(each.start, each.end) for each in mappings if each.kind is Kind.FILE]
    return Residence(tuple(_huge_pages(pagemap, huge)), tuple(_file_pages(pagemap, files)))


def _file_pages(pagemap: int, spans: Iterable[Span]) -> list[Span]:
    found: list[Span] = []
    for span in spans:
        for first, entries in read_entries(pagemap, span):
            found += chosen_spans(first, entries & (PRESENT | FILE) == PRESENT | FILE)
    return merged(found)


def _huge_pages(pagemap: int, areas: Iterable[Span]) -> list[Span]:
    """Return the huge pages of some areas: the frame of their first page tells."""
    areas = merged(areas)
    if not areas:
        return []
    try:
        flags = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a kernel without CONFIG_PROC_PAGE_MONITOR: they come as small ones
        return []
    try:
        return merged(
            (address, address + HUGE_SIZE)
            for start, end in areas
            for address in range(-(-start // HUGE_SIZE) * HUGE_SIZE, end - HUGE_SIZE + 1, HUGE_SIZE)
            if _is_huge(pagemap, flags, address)
        )
    finally:
        os.close(flags)


def _is_huge(pagemap: int, flags: int, address: int) -> bool:
    """Tell whether a huge page lies at ``address``; the huge zero page is no memory of its own."""
    entry = read_entry(pagemap, address)
    frame = entry & int(FRAME)
    if not entry & int(PRESENT) or frame % (HUGE_SIZE // PAGE_SIZE):
        return False
    found = int.from_bytes(os.pread(flags, 8, frame * 8), "little")
    return bool(found & _THP) and not found & _ZERO_PAGE
