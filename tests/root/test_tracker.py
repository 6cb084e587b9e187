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
from tests.root.mapper import NR_GETPID, PAGE, Mapper, make_file

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

FIRST = int(os.environ.get("LIVEMIG_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("LIVEMIG_SEEDS", "60")))
ROUNDS = 4
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
