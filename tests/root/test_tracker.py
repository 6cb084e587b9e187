"""After a frozen round every byte and every page of the target is as in the source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from livemig.extract import read_layout
from livemig.model import Mapping
from livemig.pagemap import Pagemap, carried
from livemig.system.memory import Memory
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover
from tests.root.mapper import (
    ADVICE,
    ARENA,
    FILL,
    FIXED,
    HUGE,
    MAYMOVE,
    NR_GETPID,
    NR_MADVISE,
    NR_MREMAP,
    NR_MUNMAP,
    PAGE,
    PAGES,
    POKE,
    Mapper,
    make_file,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

FIRST = int(os.environ.get("LIVEMIG_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("LIVEMIG_SEEDS", "60")))
ROUNDS = 6
A_FEW = 8  # pages that the program's own work touches: its stack, its buffers
LOG = int(os.environ.get("LIVEMIG_LOG", "60"))


def differing(source: App, target: App) -> list[str]:
    """Return the pages that differ, and those that only one of the two owns."""
    mappings = carried(read_layout(source.pid, 1).mappings)
    found = [
        f"{address:#x} differs in {mapping}"
        for mapping in mappings
        for address in _differing_pages(source, target, mapping)
    ]
    ours, theirs = _own(source, mappings), _own(target, mappings)
    found += [f"{page:#x} is owned by the source alone" for page in ours - theirs]
    # A page may be given up between being found and being read: it is sent as zeros then.
    found += [
        f"{page:#x} is owned by the target alone"
        for page in theirs - ours
        if not _empty(target, page)
    ]
    return found


def _empty(app: App, page: int) -> bool:
    return _read(app, page, PAGE) == bytes(PAGE)


def _read(app: App, start: int, length: int) -> bytes:
    """Return memory; what faults, beyond the end of a mapped file, as a word of its own."""
    memory = Memory(app.pid)
    try:
        return memory.read(start, length)
    except OSError:
        if length == PAGE:
            return b"fault".ljust(PAGE, b"!")
    finally:
        memory.close()
    return b"".join(_read(app, page, PAGE) for page in range(start, start + length, PAGE))


def _differing_pages(source: App, target: App, mapping: Mapping) -> list[int]:
    left, right = (_read(app, mapping.start, mapping.length) for app in (source, target))
    if left == right:
        return []
    pages = range(0, mapping.length, PAGE)
    return [mapping.start + at for at in pages if left[at : at + PAGE] != right[at : at + PAGE]]


def _own(app: App, mappings: list[Mapping]) -> set[int]:
    pagemap = Pagemap(app.pid)
    try:
        spans = pagemap.private_pages(mappings)
    finally:
        pagemap.close()
    return {page for start, end in spans for page in range(start, end, PAGE)}


@pytest.fixture
def mapper(start: Start, programs: Path, tmp_path: Path) -> Mapper:
    found = Mapper(start(programs / "mapper", make_file(tmp_path / "file")), FIRST)
    found.begin()
    return found


def test_a_neighbour_that_comes_does_not_hide_writes(mapper: Mapper, move: Mover) -> None:
    """Memory that mremap brings and the kernel joins with its neighbour is watched no more, and
    the neighbour neither, though its pages look as if they were.
    """
    near, far, two = ARENA + HUGE, ARENA + HUGE + 64 * PAGE, 2 * PAGE
    mapper.call(NR_MUNMAP, near, 128 * PAGE)
    mapper.map(near, 2)
    mapper.command(FILL, 5, near, two)
    mapper.map(far, 2)
    moving = move(mapper.app)
    moving.round()
    assert mapper.call(NR_MREMAP, far, two, two, MAYMOVE | FIXED, near + two) == near + two
    mapper.command(FILL, 6, near, two)
    mapper.answers()
    moving.round()
    mapper.command(FILL, 7, near, two)
    mapper.answers()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


@pytest.mark.parametrize("advice", [[], ["hugepage"], ["hugepage", "collapse"]])
@pytest.mark.parametrize("late", [True, False], ids=["frozen", "between-rounds"])
def test_memory_without_a_page_table_is_seen_to_be_gone(
    mapper: Mapper, move: Mover, advice: list[str], late: bool
) -> None:
    place = ARENA + HUGE
    for name in advice:
        mapper.call(NR_MADVISE, place, HUGE, ADVICE[name])
    mapper.command(FILL, 5, place, HUGE)
    mapper.answers()
    moving = move(mapper.app)
    moving.round()
    mapper.call(NR_MADVISE, place, HUGE, ADVICE["dontneed"])
    if not late:
        moving.round()
        mapper.command(POKE, 6, place, HUGE // 2)
        mapper.answers()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


@pytest.mark.parametrize("file", [False, True], ids=["anonymous", "file"])
def test_memory_that_is_mapped_anew_is_new(mapper: Mapper, move: Mover, file: bool) -> None:
    place, pages = ARENA + HUGE, 32
    mapper.map(place, pages, file=file)
    mapper.command(FILL, 5, place, pages * PAGE)
    mapper.answers()
    moving = move(mapper.app)
    moving.round()
    mapper.map(place, pages, file=file)
    mapper.command(POKE, 6, place, 8 * PAGE)
    mapper.answers()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


def test_what_is_not_written_is_not_sent_again(mapper: Mapper, move: Mover) -> None:
    mapper.app.settle()
    moving = move(mapper.app)
    assert moving.round().pages > PAGES // 2
    assert moving.round().pages == 0
    mapper.command(POKE, 6, ARENA, 16 * PAGE)
    mapper.answers()
    mapper.app.settle()
    assert 16 <= moving.outgoing.waiting() // PAGE <= 16 + A_FEW
    assert 16 <= moving.round().pages <= 16 + A_FEW
    assert moving.freeze().pages <= A_FEW


def test_a_small_change_is_sent_as_one(mapper: Mapper, move: Mover) -> None:
    """From the third time on: the second keeps the copy that the third is compared with."""
    moving = move(mapper.app)
    sent = []
    for seed in range(4):
        moving.round()
        sent.append(moving.rounds[-1])
        mapper.command(POKE, seed, ARENA, 64 * PAGE)
        mapper.answers()
    moving.freeze()
    assert sent[3].delta >= 64
    assert sent[3].bytes < 64 * PAGE // 10
    assert differing(mapper.app, moving.target) == []


def work_through(mapper: Mapper, move: Move) -> None:
    """Send rounds while the program works, at once and between the frames."""
    chance = mapper.random

    def between() -> None:
        if chance.random() < 0.3:
            mapper.act(chance.randrange(4))
            if chance.random() < 0.5:
                mapper.answers()

    move.between = between
    for _ in range(ROUNDS):
        mapper.act(chance.randrange(40))
        move.round()
        mapper.log.append(f"--- round {move.rounds[-1]}")
        mapper.answers()
        mapper.act(chance.randrange(10))
    move.between = lambda: None


@pytest.mark.parametrize(
    ("live", "seed"),
    [(True, seed) for seed in SEEDS] + [(False, seed) for seed in SEEDS[::4]],
    ids=lambda value: str(value) if type(value) is int else "live" if value else "everything",
)
def test_no_page_is_missed(
    start: Start, programs: Path, move: Mover, tmp_path: Path, live: bool, seed: int
) -> None:
    app = start(programs / "mapper", make_file(tmp_path / "file"))
    mapper = Mapper(app, seed)
    mapper.begin()
    mapper.act(30)
    mapper.answers()
    moving = move(app, live=live, cache=mapper.random.choice((0, 64, 4096)) * PAGE)
    work_through(mapper, moving)
    moving.freeze()
    found = differing(app, moving.target)
    assert not found, "\n".join([*mapper.log[-LOG:], *found[:9], f"LIVEMIG_SEED={seed}"])
    mapper.app = moving.switch()
    assert mapper.call(NR_GETPID) == 1
