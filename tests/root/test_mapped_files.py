"""Mapped files that change on the way: the target maps what it has got, not what it had."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from livemig.extract import read_layout
from livemig.model import Layout, TrackerChoice
from livemig.stub import hold_path
from livemig.system.memory import Memory
from livemig.system.procfs import read_areas
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover
from tests.root.mapper import (
    ARENA,
    FILE,
    FIXED,
    HUGE,
    MAYMOVE,
    NR_MMAP,
    NR_MREMAP,
    NR_MUNMAP,
    PAGE,
    PEEK,
    POKE,
    Mapper,
    make_file,
)
from tests.root.test_tracker import differing

pytestmark = pytest.mark.root

NR_OPEN, NR_CLOSE, NR_DUP2 = 2, 3, 33
PLACE, SHARED, PAGES = ARENA + HUGE, ARENA - 4 * HUGE, 16
MAP_FIXED_NOREPLACE = 0x100000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return make_file(tmp_path / "files" / "it")


@pytest.fixture
def mapper(start: Start, programs: Path, file: Path) -> Mapper:
    """Start a program that maps the file, has read all of that, and written to two pages."""
    found = Mapper(start(programs / "mapper", file), 1)
    found.begin()
    found.map(PLACE, PAGES, file=True)
    look(found)
    found.command(POKE, 7, PLACE + 2 * PAGE, PAGE)
    found.answers()
    return found


@pytest.fixture
def moving(mapper: Mapper, move: Mover, file: Path) -> Move:
    """Begin a move into a process that has a copy of the file's directory in its place."""
    copies = file.parent.with_name("copies")
    shutil.copytree(file.parent, copies)
    mount = f'mount --bind "{copies}" "{file.parent}" && exec "$0"'
    return move(mapper.app, held=("unshare", "--mount", "sh", "-c", mount, hold_path()))


def open_by_name(mapper: Mapper, file: Path, flags: int) -> int:
    """Have the program open a file, and return the descriptor."""
    memory = Memory(mapper.app.pid)
    memory.write(ARENA, os.fsencode(file) + b"\0")
    memory.close()
    return mapper.call(NR_OPEN, ARENA, flags, 0)


def map_shared(mapper: Mapper, file: Path) -> None:
    """Have the program map the beginning of a file, shared, for reading."""
    number = open_by_name(mapper, file, os.O_RDONLY)
    place = SHARED, PAGES * PAGE, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED_NOREPLACE
    assert mapper.call(NR_MMAP, *place, number, 0) == SHARED
    assert mapper.call(NR_CLOSE, number) == 0


def look(mapper: Mapper) -> None:
    mapper.command(PEEK, 0, PLACE, PAGES * PAGE)
    mapper.answers()


def copy_of(file: Path) -> Path:
    return file.parent.with_name("copies") / file.name


def replace(file: Path) -> str:
    """Let another file take its place, as whoever writes a file safely does; return its name."""
    new = file.with_name("new")
    new.write_bytes(bytes(reversed(file.read_bytes())))
    os.replace(new, file)
    return file.name


def open_again(mapper: Mapper, file: Path) -> None:
    """Have the program open and map the file by its name, at the same place as before."""
    number = open_by_name(mapper, file, os.O_RDWR)
    assert mapper.call(NR_DUP2, number, FILE) == FILE
    assert mapper.call(NR_CLOSE, number) == 0
    assert mapper.call(NR_MUNMAP, PLACE, PAGES * PAGE) == 0
    assert mapper.call(NR_MUNMAP, ARENA - HUGE, HUGE) == 0
    mapper.map(PLACE, PAGES, file=True)
    look(mapper)


def check(mapper: Mapper, moving: Move) -> None:
    found = differing(mapper.app, moving.target)
    assert not found, "\n".join(found[:9])
    mapper.app = moving.switch()
    look(mapper)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_file_that_took_the_place_of_another_is_mapped(
    mapper: Mapper, moving: Move, file: Path, rounds: int
) -> None:
    moving.round()
    replace(file)
    open_again(mapper, file)
    for _ in range(1, rounds):
        moving.round()
    moving.sync_files = lambda: [str(file.with_name(replace(copy_of(file))))]
    moving.freeze()
    check(mapper, moving)


def chmod(file: Path) -> None:
    file.chmod(0o640)


def write(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"another beginning")


@pytest.mark.parametrize(("late", "change"), [(False, chmod), (True, chmod), (True, write)])
def test_private_pages_outlive_a_file_that_is_sent_again(
    mapper: Mapper, moving: Move, file: Path, late: bool, change: Callable[[Path], None]
) -> None:
    """Whoever sends it again does so for what has changed since he looked first, also before us."""
    if not late:
        change(file)
    moving.round()
    if late:
        change(file)

    def sync() -> list[str]:
        shutil.copyfile(file, copy_of(file))
        return [str(file)]

    moving.sync_files = sync
    moving.freeze()
    check(mapper, moving)


def test_a_file_that_did_not_change_is_not_mapped_anew(mapper: Mapper, moving: Move) -> None:
    moving.round()
    assert moving.freeze().pages < PAGES
    check(mapper, moving)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_file_that_is_shared_for_reading_is_shared_again(
    mapper: Mapper, move: Mover, file: Path, tracker: TrackerChoice, before: int
) -> None:
    """With the first round, with the second one, and when it is frozen."""
    moving = move(mapper.app, tracker=tracker)
    for rounds in range(3):
        if rounds == before:
            map_shared(mapper, file)
        if rounds < 2:
            moving.round()
    moving.freeze()
    check(mapper, moving)
    (area,) = (each for each in read_areas(mapper.app.pid) if each.start == SHARED)
    assert area.shared
    assert area.name == str(file)
    memory = Memory(mapper.app.pid)
    assert memory.read(SHARED, PAGES * PAGE) == file.read_bytes()[: PAGES * PAGE]
    memory.close()


def after_a_look(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[Layout]:
    """Have something done just after the next look at the layout, which is put into the list."""
    looked: list[Layout] = []

    def look_and_act(*args: Any, **how: Any) -> Layout:
        layout = read_layout(*args, **how)
        if not looked:
            looked.append(layout)
            act()
        return layout

    monkeypatch.setattr("livemig.rounds.read_layout", look_and_act)
    return looked


def test_a_file_that_is_shared_after_a_look_at_the_layout_can_wait(
    mapper: Mapper, move: Mover, file: Path, tracker: TrackerChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be watched, as nobody can write to it, and is where there was nothing yet.

    What else was mapped then is not split: mremap(2) would fail.
    """
    near, far, size = SHARED - 64 * PAGE, SHARED - 32 * PAGE, 16 * PAGE
    mapper.map(near, 8)
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    mapper.command(POKE, 8, PLACE, PAGE)

    def act() -> None:
        map_shared(mapper, file)
        mapper.map(near, 16)

    looked = after_a_look(monkeypatch, act)
    moving.round()
    assert looked
    assert mapper.call(NR_MREMAP, near, size, size, MAYMOVE | FIXED, far) == far
    moving.freeze()
    check(mapper, moving)
    assert any(each.shared for each in read_areas(mapper.app.pid))


def test_memory_that_takes_the_place_of_a_shared_file_can_be_moved_as_one(
    mapper: Mapper, move: Mover, file: Path, tracker: TrackerChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was not to be watched; what is there now, and beyond both of its ends, is."""
    near, far, size = SHARED - 8 * PAGE, SHARED - 64 * PAGE, 2 * PAGES * PAGE
    map_shared(mapper, file)
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    looked = after_a_look(monkeypatch, lambda: mapper.map(near, 2 * PAGES))
    moving.round()
    assert looked
    assert mapper.call(NR_MREMAP, near, size, size, MAYMOVE | FIXED, far) == far
    moving.freeze()
    check(mapper, moving)
