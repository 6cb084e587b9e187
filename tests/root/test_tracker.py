"""After a frozen round every byte and every page of the target is as in the source."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from livemig import outgoing
from livemig.errors import KernelLacks, NotCarried, TransferError
from livemig.extract import read_layout
from livemig.model import TRACKERS, Mapping, TrackerChoice
from livemig.pagemap import Pagemap, carried
from livemig.stub import hold_path
from livemig.system.memory import Memory
from livemig.system.procfs import read_status
from livemig.tracker import check_tracker
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.fuse import SlowFile
from tests.root.loopback import Move, Mover
from tests.root.mapper import (
    ADVICE,
    ARENA,
    CALL,
    DIRECT,
    EXEC,
    FILL,
    FIXED,
    HUGE,
    MAP_ANONYMOUS,
    MAP_FIXED_PRIVATE,
    MAYMOVE,
    NR_GETPID,
    NR_MADVISE,
    NR_MEMFD_CREATE,
    NR_MMAP,
    NR_MREMAP,
    NR_MUNMAP,
    NR_PREAD,
    NR_PWRITE,
    PAGE,
    PAGES,
    POKE,
    Mapper,
    make_file,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

FIRST = int(os.environ.get("LIVEMIG_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("LIVEMIG_SEEDS", "200")))
TELLING = (81,)  # found something once: two programs, one after the other, before a look
SHORT = 32 if "LIVEMIG_SEEDS" not in os.environ else len(SEEDS)  # without the marker `long`
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


def test_a_neighbour_that_comes_does_not_hide_writes(
    mapper: Mapper, move: Mover, tracker: TrackerChoice
) -> None:
    """Memory that mremap brings and the kernel joins with its neighbour is watched no more, and
    the neighbour neither, though its pages look as if they were.
    """
    near, far, two = ARENA + HUGE, ARENA + HUGE + 64 * PAGE, 2 * PAGE
    mapper.call(NR_MUNMAP, near, 128 * PAGE)
    mapper.map(near, 2)
    mapper.command(FILL, 5, near, two)
    mapper.map(far, 2)
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    assert mapper.call(NR_MREMAP, far, two, two, MAYMOVE | FIXED, near + two) == near + two
    mapper.command(FILL, 6, near, two)
    mapper.answers()
    moving.round()
    mapper.command(FILL, 7, near, two)
    mapper.answers()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


def test_what_is_mapped_while_it_begins_to_watch_can_be_moved_as_one(
    mapper: Mapper, move: Mover, tracker: TrackerChoice
) -> None:
    """mremap(2) fails on two areas at once, and what is watched in part, is two."""
    near, far, size = ARENA + HUGE, ARENA + HUGE + 64 * PAGE, 16 * PAGE
    mapper.call(NR_MUNMAP, near, 128 * PAGE)
    mapper.map(near, 8)
    moving = move(mapper.app, tracker=tracker)
    frames: list[int] = []

    def grow() -> None:
        if not frames:  # the mappings have been read
            mapper.map(near, 16)
            mapper.command(FILL, 5, near, size)
            mapper.answers()
        frames.append(1)

    moving.between = grow
    moving.round()
    assert len(frames) > 1
    assert mapper.call(NR_MREMAP, near, size, size, MAYMOVE | FIXED, far) == far
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


def test_who_moves_memory_without_pause_goes_on(
    start: Start, programs: Path, move: Mover, tracker: TrackerChoice
) -> None:
    """The program ends where a call fails that would not without a tracker."""
    app = start(programs / "mover")
    before = 0
    for _ in range(6):
        moving = move(app, tracker=tracker)
        for _ in range(3):
            moving.round()
        moving.freeze()
        assert differing(app, moving.target) == []
        moving.give_up()
        _, count, wrong = map(int, app.ask("how").split())
        assert wrong == 0
        assert count > before
        before = count


@pytest.mark.parametrize("advice", [[], ["hugepage"], ["hugepage", "collapse"]])
@pytest.mark.parametrize("late", [True, False], ids=["frozen", "between-rounds"])
def test_memory_without_a_page_table_is_seen_to_be_gone(
    mapper: Mapper, move: Mover, tracker: TrackerChoice, advice: list[str], late: bool
) -> None:
    place = ARENA + HUGE
    for name in advice:
        mapper.call(NR_MADVISE, place, HUGE, ADVICE[name])
    mapper.command(FILL, 5, place, HUGE)
    mapper.answers()
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    mapper.call(NR_MADVISE, place, HUGE, ADVICE["dontneed"])
    if not late:
        moving.round()
        mapper.command(POKE, 6, place, HUGE // 2)
        mapper.answers()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


@pytest.mark.parametrize("file", [False, True], ids=["anonymous", "file"])
def test_memory_that_is_mapped_anew_is_new(
    mapper: Mapper, move: Mover, tracker: TrackerChoice, file: bool
) -> None:
    place, pages = ARENA + HUGE, 32
    mapper.map(place, pages, file=file)
    mapper.command(FILL, 5, place, pages * PAGE)
    mapper.answers()
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    mapper.map(place, pages, file=file)
    mapper.command(POKE, 6, place, 8 * PAGE)
    mapper.answers()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


def test_what_is_not_written_is_not_sent_again(
    mapper: Mapper, move: Mover, tracker: TrackerChoice
) -> None:
    mapper.app.settle()
    moving = move(mapper.app, tracker=tracker)
    assert moving.round().pages > PAGES // 2
    assert moving.round().pages == 0
    mapper.command(POKE, 6, ARENA, 16 * PAGE)
    mapper.answers()
    mapper.app.settle()
    assert 16 <= moving.outgoing.waiting() // PAGE <= 16 + A_FEW
    assert 16 <= moving.round().pages <= 16 + A_FEW
    assert moving.freeze().pages <= A_FEW


def test_a_small_change_is_sent_as_one(mapper: Mapper, move: Mover, tracker: TrackerChoice) -> None:
    """From the third time on: the second keeps the copy that the third is compared with."""
    moving = move(mapper.app, tracker=tracker)
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


def test_a_whole_page_table_that_moves_is_seen(
    mapper: Mapper, move: Mover, tracker: TrackerChoice
) -> None:
    """The kernel moves it as one: soft-dirty bits stay as they are, and so does the layout."""
    mapper.call(NR_MADVISE, ARENA, 2 * HUGE, ADVICE["nohugepage"])
    mapper.command(FILL, 5, ARENA, HUGE)
    mapper.command(FILL, 6, ARENA + HUGE, HUGE)
    mapper.answers()
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    moving.round()
    flags = MAYMOVE | FIXED
    assert mapper.call(NR_MREMAP, ARENA + HUGE, HUGE, HUGE, flags, ARENA) == ARENA
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


def test_a_program_that_is_executed_is_followed(
    mapper: Mapper, move: Mover, tracker: TrackerChoice
) -> None:
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    mapper.command(EXEC, 0)
    mapper.begin()
    moving.outgoing.waiting()
    assert moving.round().pages > PAGES // 2
    mapper.app.settle()
    assert moving.round().pages <= A_FEW
    moving.freeze()
    assert differing(mapper.app, moving.target) == []
    mapper.app = moving.switch()
    assert mapper.call(NR_GETPID) == 1


def test_a_process_that_executes_without_end_is_told(
    mapper: Mapper, move: Mover, tracker: TrackerChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "_EXECUTIONS", 4)
    moving = move(mapper.app, tracker=tracker)
    moving.round()

    def execute() -> None:
        memory = Memory(mapper.app.pid)
        mapper.command(EXEC, 0)
        mapper.answers()
        while not memory.is_gone():
            time.sleep(0.0005)
        memory.close()

    execute()
    moving.between = execute
    with pytest.raises(TransferError, match=f"process {mapper.app.pid} executes one program after"):
        moving.round()
    moving.give_up()
    assert mapper.call(NR_GETPID) == 1


@pytest.mark.parametrize("private", [False, True], ids=["shared", "private"])
def test_a_memfd_that_is_mapped_between_rounds_is_refused_by_name(
    mapper: Mapper, move: Mover, tracker: TrackerChoice, private: bool
) -> None:
    moving = move(mapper.app, tracker=tracker)
    moving.round()
    place = ARENA + HUGE
    mapper.call(NR_MMAP, place, PAGE, 3, MAP_FIXED_PRIVATE | MAP_ANONYMOUS, (1 << 64) - 1, 0)
    memfd = mapper.call(NR_MEMFD_CREATE, place, 0)
    assert mapper.call(NR_PWRITE, memfd, ARENA, 4 * PAGE, 0) == 4 * PAGE
    moving.round()  # it is not mapped, and no memory of the process
    flags = MAP_FIXED_PRIVATE if private else MAP_FIXED_PRIVATE ^ 3
    assert mapper.call(NR_MMAP, place, 4 * PAGE, 3, flags, memfd, 0) == place
    assert mapper.call(NR_PWRITE, memfd, ARENA, PAGE, 0) == PAGE
    with pytest.raises(NotCarried, match=f"at {place:#x}-.*memfd:") as caught:
        moving.round()
    assert str(mapper.app.pid) in caught.value.message
    moving.give_up()
    assert mapper.call(NR_GETPID) == 1


def test_what_a_device_writes_late_is_seen(
    start: Start, programs: Path, move: Mover, tmp_path: Path, tracker: TrackerChoice
) -> None:
    """A read past the page cache gives the device the memory, and the device takes its time."""
    place = ARENA + HUGE
    with SlowFile(tmp_path / "slow", b"late" * PAGE) as slow:
        app = start(programs / "mapper", make_file(tmp_path / "file"), slow.path)
        mapper = Mapper(app, FIRST)
        mapper.begin()
        mapper.command(FILL, 5, place, 4 * PAGE)
        mapper.answers()
        moving = move(app, tracker=tracker)
        moving.round()
        mapper.command(CALL, NR_PREAD, DIRECT, place, 4 * PAGE, 0)
        slow.await_read()
        over = threading.Event()
        device = threading.Thread(target=answer_late, args=(app, slow, over))
        device.start()
        try:
            moving.round()
        finally:
            over.set()
            device.join()
        assert mapper.answers() == [4 * PAGE]
        moving.freeze()
        assert differing(app, moving.target) == []


def answer_late(app: App, slow: SlowFile, over: threading.Event) -> None:
    """Answer when the round is over, or waits for it."""
    while not over.wait(0.001) and not int(read_status(app.pid)["TracerPid"]):
        pass
    slow.answer()


def work_through(mapper: Mapper, move: Move) -> None:
    """Send rounds while the program works, at once and between the frames."""
    chance = mapper.random

    def between() -> None:
        if chance.random() < 0.3:
            mapper.act(chance.randrange(4))
            if chance.random() < 0.5:
                mapper.answers()

    move.between = between
    for number in range(ROUNDS):
        if number:  # a file that changes between the first copy and the first round is refused
            mapper.act(chance.randrange(40))
        move.round()
        mapper.log.append(f"--- round {move.rounds[-1]}")
        mapper.answers()
        mapper.act(chance.randrange(10))
    move.between = lambda: None


def move_with_files(
    move: Mover, app: App, file: Path, *, live: bool, cache: int, tracker: TrackerChoice
) -> Move:
    """Move into a process that has a copy of the file, which follows when the source is frozen."""
    copy = file.with_name("copy")
    shutil.copyfile(file, copy)
    mount = f'mount --bind "{copy}" "{file}" && exec "$0"'
    held = ("unshare", "--mount", "sh", "-c", mount, hold_path())
    moving = move(app, live=live, cache=cache, tracker=tracker, held=held)
    before = file.stat()

    def sync() -> list[str]:
        now = file.stat()
        if (now.st_size, now.st_ctime_ns) == (before.st_size, before.st_ctime_ns):
            return []
        shutil.copyfile(file, copy)  # in place, and emptied first
        return [str(file)]

    moving.sync_files = sync
    return moving


def check_a_seed(
    start: Start, programs: Path, move: Mover, place: Path, seed: int, tracker: TrackerChoice | None
) -> None:
    """Let a program do what a seed says before and during a move; then nothing may differ."""
    file = make_file(place / "file")
    app = start(programs / "mapper", file, *([file] if seed % 2 else []))
    mapper = Mapper(app, seed)
    mapper.begin()
    mapper.act(30)
    mapper.answers()
    moving = move_with_files(
        move,
        app,
        file,
        live=tracker is not None,
        cache=mapper.random.choice((0, 64, 4096)) * PAGE,
        tracker=tracker or "auto",
    )
    work_through(mapper, moving)
    moving.freeze()
    found = differing(app, moving.target)
    assert not found, "\n".join([*mapper.log[-LOG:], *found[:9], f"LIVEMIG_SEED={seed}"])
    mapper.app = moving.switch()
    assert mapper.call(NR_GETPID) == 1


def seeds(every: int, short: int) -> list[object]:
    chosen = SEEDS[::every]
    long = [
        pytest.param(seed, marks=[] if seed in TELLING else pytest.mark.long)
        for seed in chosen[short:]
    ]
    return [*chosen[:short], *long]


@pytest.mark.parametrize("seed", seeds(1, SHORT))
def test_no_page_is_missed(
    start: Start, programs: Path, move: Mover, tmp_path: Path, tracker: TrackerChoice, seed: int
) -> None:
    check_a_seed(start, programs, move, tmp_path, seed, tracker)


@pytest.mark.parametrize("seed", seeds(4, SHORT // 4))
def test_no_page_is_missed_without_a_tracker(
    start: Start, programs: Path, move: Mover, tmp_path: Path, seed: int
) -> None:
    check_a_seed(start, programs, move, tmp_path, seed, None)


@pytest.mark.parametrize("name", TRACKERS)
def test_what_a_kernel_lacks_is_known_before_a_process_is_touched(
    start: Start, move: Mover, name: TrackerChoice
) -> None:
    lacks = ""
    try:
        check_tracker(name)
    except KernelLacks as error:
        lacks = error.message
    try:
        move(start("cat"), tracker=name).give_up()
        found = ""
    except (KernelLacks, pytest.skip.Exception) as error:
        found = str(error)
    assert found == lacks
