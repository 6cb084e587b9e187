"""Tar archives that are written and read in one go, however large: no file, no seeking."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
"""What closes an archive."""


class ChunkReader:
    """A file to read, made of chunks that arrive: what ``tarfile`` wants for mode ``r|``."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes, and none at the end only."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(chunk)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)


def member(info: tarfile.TarInfo, content: Iterable[bytes] = ()) -> Iterator[bytes]:
    """Yield one member: its header, exactly ``info.size`` bytes of content, padding.

    What is missing is filled with zeros and what is too much is cut: a file may change its size
    while it is read.
    """
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    left = info.size
    for chunk in content:
        piece = chunk[:left]
        left -= len(piece)
        yield piece
        if not left:
            break
    while left:
        piece = bytes(min(left, 1 << 20))
        left -= len(piece)
        yield piece
    if padding := -info.size % BLOCK:
        yield bytes(padding)
