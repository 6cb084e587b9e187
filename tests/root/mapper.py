"""Drive the program ``mapper``: it does to its memory what a seed says."""

from __future__ import annotations

import mmap
import random
import struct
from pathlib import Path

from tests.root.apps import App

PAGE = mmap.PAGESIZE
ARENA = 0x10_0000_0000
PAGES = 1024  # two huge pages
HUGE = 2 << 20
LONGEST = 96

NR_MMAP, NR_MPROTECT, NR_MUNMAP, NR_BRK, NR_PREAD, NR_MREMAP, NR_MADVISE = 9, 10, 11, 12, 17, 25, 28
NR_PWRITE, NR_GETPID, NR_FTRUNCATE, NR_PRCTL, NR_MEMFD_CREATE = 18, 39, 77, 157, 319
CALL, FILL, POKE, PEEK, EXEC = range(5)
FILE, RANDOM, ZERO, DIRECT = 3, 4, 5, 6
FILE_PAGES = 160
MAYMOVE, FIXED, DONTUNMAP = 1, 2, 4
MAP_FIXED_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE = 0x12, 0x20, 0x4000
ADVICE = {
    "dontneed": 4,
    "free": 8,
    "hugepage": 14,
    "nohugepage": 15,
    "cold": 20,
    "pageout": 21,
    "collapse": 25,
}
PROTECTIONS = (3, 3, 3, 1, 0, 5, 7)


class Mapper:
    """Sends commands to the program, and says what it sent."""

    def __init__(self, app: App, seed: int) -> None:
        self.app = app
        self.random = random.Random(seed)
        self.pages = self.random.choice((24, 128, PAGES))  # a small place sees more of the same
        self.rare = self.random.choice(RARE)
        self.log: list[str] = []
        self._waiting = 0
        self._brk = 0

    def command(self, operation: int, number: int, *arguments: int) -> None:
        """Send one command without waiting for its answer."""
        words = [*arguments, *[0] * (6 - len(arguments))]
        self.app.send(struct.pack("=8Q", operation, number, *words))
        self._waiting += 1

    def answers(self) -> list[int]:
        """Wait until all commands have been answered."""
        data = self.app.receive(8 * self._waiting)
        self._waiting = 0
        return list(struct.unpack(f"={len(data) // 8}q", data))

    def call(self, number: int, *arguments: int) -> int:
        """Let it make one system call, and return the result."""
        self.answers()
        self.command(CALL, number, *arguments)
        return self.answers()[0]

    def map(self, start: int, pages: int, *, file: bool = False) -> None:
        """Map fresh memory, or the file's beginning."""
        flags = MAP_FIXED_PRIVATE | (0 if file else MAP_ANONYMOUS)
        descriptor = FILE if file else (1 << 64) - 1
        assert self.call(NR_MMAP, start, pages * PAGE, 3, flags, descriptor, 0) == start

    def begin(self) -> None:
        """Lay the arena out, and show the file below it."""
        length = PAGES * PAGE
        flags = MAP_FIXED_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        assert self.call(NR_MMAP, ARENA, length, 3, flags, 1 << 64 - 1, 0) == ARENA
        self.map(ARENA - HUGE, FILE_PAGES, file=True)
        self._brk = self.call(NR_BRK, 0)
        self.command(FILL, 1, ARENA, length // 2)
        self.answers()

    def act(self, count: int) -> None:
        """Send ``count`` random commands."""
        for _ in range(count):
            action = self.random.choices((*ACTIONS, self.rare), (*WEIGHTS, 2))[0]
            self.log.append(f"{action.__name__} {action(self)}")

    def _span(self) -> tuple[int, int]:
        length = self.random.randint(1, self.random.choice((2, 8, min(LONGEST, self.pages // 2))))
        return ARENA + self.random.randrange(self.pages - length) * PAGE, length * PAGE

    def _fill(self) -> str:
        start, length = self._span()
        self.command(FILL, self.random.randrange(1 << 60), start, length)
        return f"{start:#x}+{length:#x}"

    def _poke(self) -> str:
        start, length = self._span()
        start += self.random.randrange(PAGE // 8) * 8
        self.command(POKE, self.random.randrange(1 << 60), start, length - PAGE)
        return f"{start:#x}+{length - PAGE:#x}"

    def _peek(self) -> str:
        start, length = self._span()
        self.command(PEEK, 0, start, length)
        return f"{start:#x}+{length:#x}"

    def _read(self) -> str:
        start, length = self._span()
        start += self.random.randrange(PAGE)
        source = self.random.choice((FILE, RANDOM, ZERO))
        length = max(length - PAGE, 1)
        self.command(CALL, NR_PREAD, source, start, length, self.random.randrange(9) * 100)
        return f"{source} {start:#x}+{length:#x}"

    def _map(self) -> str:
        start, length = self._span()
        prot = self.random.choice(PROTECTIONS)
        flags = MAP_FIXED_PRIVATE | MAP_ANONYMOUS
        self.command(CALL, NR_MMAP, start, length, prot, flags, (1 << 64) - 1, 0)
        return f"{start:#x}+{length:#x} {prot}"

    def _map_file(self) -> str:
        start, length = self._span()
        prot = self.random.choice(PROTECTIONS)
        offset = self.random.randrange(32) * PAGE
        self.command(CALL, NR_MMAP, start, length, prot, MAP_FIXED_PRIVATE, FILE, offset)
        return f"{start:#x}+{length:#x} {prot} {offset:#x}"

    def _unmap(self) -> str:
        start, length = self._span()
        self.command(CALL, NR_MUNMAP, start, length)
        return f"{start:#x}+{length:#x}"

    def _remap(self) -> str:
        (start, length), (wanted, size) = self._span(), self._span()
        flags = MAYMOVE | FIXED
        if self.random.random() < 0.2:
            flags, size = flags | DONTUNMAP, length
            wanted = min(wanted, ARENA + self.pages * PAGE - length)
        self.command(CALL, NR_MREMAP, start, length, size, flags, wanted)
        return f"{start:#x}+{length:#x} {wanted:#x}+{size:#x} {flags}"

    def _protect(self) -> str:
        start, length = self._span()
        prot = self.random.choice(PROTECTIONS)
        self.command(CALL, NR_MPROTECT, start, length, prot)
        return f"{start:#x}+{length:#x} {prot}"

    def _advise(self) -> str:
        start, length = self._span()
        name = self.random.choice(("dontneed", "dontneed", "free", *ADVICE))
        if "huge" in name or name == "collapse":
            start, length = ARENA + self.random.randrange(2) * HUGE, HUGE
        self.command(CALL, NR_MADVISE, start, length, ADVICE[name])
        return f"{start:#x}+{length:#x} {name}"

    def _empty(self) -> str:
        """Give up a huge page, or all that a page table is for, at once."""
        start = ARENA + self.random.randrange(2) * HUGE
        self.command(CALL, NR_MADVISE, start, HUGE, ADVICE["dontneed"])
        return f"{start:#x}+{HUGE:#x}"

    def _shuffle(self) -> str:
        """Move all that a page table is for over what another is for."""
        start, wanted = self.random.sample((ARENA, ARENA + HUGE), 2)
        self.command(CALL, NR_MREMAP, start, HUGE, HUGE, MAYMOVE | FIXED, wanted)
        flags = MAP_FIXED_PRIVATE | MAP_ANONYMOUS
        self.command(CALL, NR_MMAP, start, HUGE, 3, flags, (1 << 64) - 1, 0)
        return f"{start:#x} {wanted:#x}"

    def _read_directly(self) -> str:
        start, length = self._span()
        offset = self.random.randrange(32) * PAGE
        self.command(CALL, NR_PREAD, DIRECT, start, length, offset)
        return f"{start:#x}+{length:#x} {offset:#x}"

    def _truncate(self) -> str:
        """Cut the file that is mapped, or make it longer than it was at first."""
        size = self.random.randrange(FILE_PAGES * PAGE * 5 // 4)
        self.command(CALL, NR_FTRUNCATE, FILE, size)
        return f"{size:#x}"

    def _write_file(self) -> str:
        start, length = self._span()
        offset = self.random.randrange(FILE_PAGES * PAGE)
        self.command(CALL, NR_PWRITE, FILE, start, length, offset)
        return f"{start:#x}+{length:#x} {offset:#x}"

    def _poke_file(self) -> str:
        """Write to the private copy of the file's pages."""
        start = ARENA - HUGE + self.random.randrange(FILE_PAGES) * PAGE
        self.command(POKE, self.random.randrange(1 << 60), start, 4 * PAGE)
        return f"{start:#x}"

    def _execute(self) -> str:
        """Execute the program anew, and lay its memory out as at first."""
        self.answers()
        self.command(EXEC, 0)
        self.begin()
        return ""

    def _change_file(self) -> str:
        action = self.random.choice((Mapper._truncate, Mapper._write_file, Mapper._poke_file))
        return f"{action.__name__} {action(self)}"

    def _grow(self) -> str:
        end = self._brk + self.random.randrange(64) * PAGE
        self.command(CALL, NR_BRK, end)
        self.command(POKE, self.random.randrange(1 << 60), self._brk, max(end - self._brk - 8, 0))
        return f"{end:#x}"


ACTIONS = (
    Mapper._fill,
    Mapper._poke,
    Mapper._peek,
    Mapper._read,
    Mapper._map,
    Mapper._map_file,
    Mapper._unmap,
    Mapper._remap,
    Mapper._protect,
    Mapper._advise,
    Mapper._grow,
    Mapper._empty,
)
WEIGHTS = (12, 20, 6, 10, 6, 4, 4, 8, 8, 10, 2, 1)


# Each seed does one of these, too.
RARE = (Mapper._shuffle, Mapper._read_directly, Mapper._change_file, Mapper._execute)


def make_file(path: Path) -> Path:
    """Write the file that is mapped, every page of it another."""
    path.write_bytes(random.Random(0).randbytes(FILE_PAGES * PAGE))
    return path
