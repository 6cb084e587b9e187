"""Read pages of a process that runs on meanwhile: some may vanish before their turn comes."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from livemig.errors import ProcessGone
from livemig.extract.guards import is_guarded
from livemig.intervals import Span, total
from livemig.system.memory import PAGE_SIZE, Memory, read_ranges


def read_pages(
    memory: Memory, spans: Sequence[Span], *, frozen: bool, pagemap: int
) -> tuple[list[int], bytearray, list[Span]]:
    """Return the addresses that were read, their pages one after the other, and what is not there.

    ``pagemap`` is the descriptor of its page map. Raises OSError for a page that cannot be read
    while the process is ``frozen``, and has no guard, ProcessGone where the process has ended.
    """
    data = bytearray(total(spans))
    addresses = [address for span in spans for address in range(*span, PAGE_SIZE)]
    if _read(memory.pid, spans, data) == len(data):
        return addresses, data, []
    return _read_slowly(memory, addresses, frozen, pagemap)


def _read(pid: int, spans: Sequence[Span], data: bytearray) -> int:
    try:
        return read_ranges(pid, [(start, end - start) for start, end in spans], data)
    except ProcessLookupError as error:
        raise ProcessGone(f"process {pid} ended while it was read") from error
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return 0


def _read_slowly(
    memory: Memory, addresses: list[int], frozen: bool, pagemap: int
) -> tuple[list[int], bytearray, list[Span]]:
    found, data, gone = [], bytearray(), []
    for address in addresses:
        try:
            data += memory.read(address, PAGE_SIZE)
        except OSError:
            if frozen and not is_guarded(pagemap, address):
                raise
            gone.append((address, address + PAGE_SIZE))
            continue
        found.append(address)
    return found, data, gone
