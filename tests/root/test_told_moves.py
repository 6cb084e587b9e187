"""The write-protect tracker is told of every move, and no application waits for it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from livemig.errors import KernelLacks
from livemig.frames import FrameType
from livemig.model import TrackerChoice
from livemig.outgoing import Outgoing
from livemig.system import listener, uffd
from livemig.system.priority import background, foreground
from livemig.system.procfs import descriptors, read_area_details
from livemig.tracker import check_tracker, moves
from tests import pace
from tests.conftest import required
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.forked import Forked, Say
from tests.root.loopback import CACHE, Move, Mover
from tests.root.mapper import (
    ARENA,
    CALL,
    DONTUNMAP,
    FILL,
    FIXED,
    HUGE,
    MAYMOVE,
    NR_GETPID,
    NR_MREMAP,
    NR_MUNMAP,
    PAGE,
    POKE,
    Mapper,
)
from tests.root.test_relocation import Blocks
from tests.root.test_tracker import A_FEW, FIRST, differing, mapper

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

__all__ = ["mapper"]

TOLD: TrackerChoice = "write-protect"


@pytest.fixture(scope="module", autouse=True)
def _the_kernel_tells() -> None:
    """Skip all where the kernel lacks the tracker, unless it is required."""
    try:
        check_tracker(TOLD)
    except KernelLacks as error:
        if TOLD in required():
            raise
        pytest.skip(error.message)


OLD, NEW = ARENA + HUGE, ARENA + 8 * HUGE
MANY = 700  # pages: more than two frames of them
MOMENT = pace.limit(5.0)  # seconds; this machine may be at work on something else for some of it


@pytest.fixture
def told(mapper: Mapper, move: Mover) -> Move:
    """Return a move of a program with MANY pages at OLD, all of them sent."""
    mapper.call(NR_MUNMAP, OLD - PAGE, HUGE + 2 * MANY * PAGE)
    mapper.map(OLD, MANY)
    mapper.command(FILL, 5, OLD, MANY * PAGE)
    mapper.answers()
    moving = move(mapper.app, tracker=TOLD)
    moving.round()
    mapper.app.settle()
    moving.round()
    return moving


def remap(
    mapper: Mapper, start: int, pages: int, to: int, *, longer: int = 0, more: int = 0
) -> None:
    size = pages * PAGE
    flags = MAYMOVE | FIXED | more
    assert mapper.call(NR_MREMAP, start, size, size + longer * PAGE, flags, to) == to


def unmap(mapper: Mapper, start: int, pages: int) -> None:
    mapper.call(NR_MUNMAP, start, pages * PAGE)


def write(mapper: Mapper, start: int, pages: int) -> None:
    mapper.command(POKE, mapper.random.randrange(1 << 60), start, pages * PAGE)
    mapper.answers()


def chain(mapper: Mapper) -> int:
    """A page is written at each place that its memory comes through."""
    for number, place in enumerate((NEW, NEW + HUGE * 2, NEW + HUGE * 4)):
        remap(mapper, (OLD, NEW, NEW + HUGE * 2)[number], MANY, place)
        write(mapper, place + number * PAGE, 1)
    return 3


def back(mapper: Mapper) -> int:
    remap(mapper, OLD, MANY, NEW)
    write(mapper, NEW, 1)
    remap(mapper, NEW, MANY, OLD)
    return 1


def moving_up(mapper: Mapper) -> int:
    """Memory comes to where other memory has left."""
    remap(mapper, OLD, 300, NEW)
    remap(mapper, OLD + 300 * PAGE, 300, OLD)
    write(mapper, OLD, 1)
    return 1


def grown(mapper: Mapper) -> int:
    remap(mapper, OLD, MANY, NEW, longer=40)
    write(mapper, NEW + MANY * PAGE, 2)
    return 2


def shrunk(mapper: Mapper) -> int:
    """What is told to have moved is more than there is."""
    remap(mapper, OLD, MANY, NEW, longer=-40)
    mapper.map(NEW + (MANY - 40) * PAGE, 40)
    return 0


def left_mapped(mapper: Mapper) -> int:
    """The memory is gone, and the mapping stays."""
    remap(mapper, OLD, MANY, NEW, more=DONTUNMAP)
    write(mapper, OLD, 2)
    return 2


def mapped_anew(mapper: Mapper) -> int:
    remap(mapper, OLD, MANY, NEW)
    mapper.map(OLD, 4)
    write(mapper, OLD, 3)
    return 3


def unmapped(mapper: Mapper) -> int:
    remap(mapper, OLD, MANY, NEW)
    unmap(mapper, NEW, 300)
    mapper.map(NEW, 8)
    write(mapper, NEW, 2)
    return 2


def in_pieces(mapper: Mapper) -> int:
    for number in range(7):
        remap(mapper, OLD + number * 100 * PAGE, 100, NEW + (6 - number) * 100 * PAGE)
    return 0


@pytest.mark.parametrize("frozen", [False, True], ids=["between-rounds", "before-the-last"])
@pytest.mark.parametrize(
    "act",
    [chain, back, moving_up, grown, shrunk, left_mapped, mapped_anew, unmapped, in_pieces],
)
def test_of_what_was_moved_only_written_pages_are_sent(
    mapper: Mapper, told: Move, act: Callable[[Mapper], int], frozen: bool
) -> None:
    written = act(mapper)
    mapper.app.settle()
    sent = told.freeze() if frozen else told.round()
    assert written <= sent.pages <= written + A_FEW
    if not frozen:
        write(mapper, NEW + 5 * PAGE, 1)
        assert told.freeze().pages <= 1 + A_FEW
    assert differing(mapper.app, told.target) == []
    mapper.app = told.switch()
    assert mapper.call(NR_GETPID) == 1


def changing_places(mapper: Mapper) -> None:
    remap(mapper, OLD, 300, NEW)
    remap(mapper, OLD + 300 * PAGE, 300, OLD)
    remap(mapper, NEW, 300, OLD + 300 * PAGE)


def over_other_memory(mapper: Mapper) -> None:
    remap(mapper, OLD, 300, OLD + 300 * PAGE)


def after_others_left(mapper: Mapper) -> None:
    unmap(mapper, OLD + 300 * PAGE, 300)
    remap(mapper, OLD, 300, OLD + 300 * PAGE)


def beside_other_memory(mapper: Mapper) -> None:
    """It is told to have come to where other memory is, and has not: it shrank."""
    unmap(mapper, OLD + 300 * PAGE, 100)
    remap(mapper, OLD, 200, OLD + 300 * PAGE, longer=-100)


def twice_over(mapper: Mapper) -> None:
    """As above, and that memory has come there just before."""
    remap(mapper, OLD + 400 * PAGE, 300, NEW)
    remap(mapper, OLD, 200, NEW - 100 * PAGE, longer=-100)


@pytest.mark.parametrize("late", [False, True], ids=["between-rounds", "before-the-last"])
@pytest.mark.parametrize(
    "act",
    [changing_places, over_other_memory, after_others_left, beside_other_memory, twice_over],
)
def test_what_cannot_be_moved_on_the_target_is_sent(
    mapper: Mapper, told: Move, act: Callable[[Mapper], None], late: bool
) -> None:
    act(mapper)
    if not late:
        told.round()
        write(mapper, OLD + 310 * PAGE, 5)
    told.freeze()
    assert differing(mapper.app, told.target) == []


@pytest.fixture(params=["known", "never-at-rest", "lost"])
def hearing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let moves be under way whenever that is asked, or more be made than there is room for."""
    if request.param == "never-at-rest":
        monkeypatch.setattr(uffd, "is_moving", lambda _: True)
    if request.param == "lost":
        monkeypatch.setattr(listener, "_ROOM", 1)
    return str(request.param)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + 4))
@pytest.mark.usefixtures("hearing")
def test_what_is_read_elsewhere_than_it_was_found_is_not_taken_for_it(
    mapper: Mapper, move: Mover, seed: int
) -> None:
    """Between frames memory leaves the place that is read next, and other memory comes there."""
    mapper.call(NR_MUNMAP, OLD - PAGE, HUGE + 2 * MANY * PAGE)
    mapper.map(OLD, MANY)
    mapper.command(FILL, 5, OLD, MANY * PAGE)
    mapper.answers()
    moving = move(mapper.app, tracker=TOLD, cache=seed % 2 * 64 * PAGE)
    send, frames = moving.send, 0

    def sending(kind: FrameType, body: dict[str, object], payload: bytes = b"") -> None:
        nonlocal frames
        send(kind, body, payload)
        frames += kind is FrameType.PAGES
        if frames == seed + 1 and kind is FrameType.PAGES:
            remap(mapper, OLD + 100 * PAGE, 600, NEW)
            remap(mapper, NEW + 100 * PAGE, 100, NEW + HUGE * 2)
            mapper.map(OLD + 100 * PAGE, 600)
            mapper.command(FILL, 6, OLD + 100 * PAGE, 600 * PAGE)
            mapper.answers()

    moving.send = sending  # type: ignore[method-assign]
    for _ in range(3):
        moving.round()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


@pytest.mark.parametrize("seed", range(FIRST, FIRST + 3))
@pytest.mark.usefixtures("hearing")
def test_no_page_is_lost_where_it_is_not_known_what_was_moved(
    mapper: Mapper, move: Mover, seed: int
) -> None:
    blocks = Blocks(mapper, seed)
    mapper.answers()
    moving = move(mapper.app, tracker=TOLD)
    for _ in range(6):
        for _ in range(4):
            blocks.act()
        mapper.answers()
        moving.round()
    blocks.act()
    mapper.answers()
    moving.freeze()
    assert differing(mapper.app, moving.target) == []


def test_memory_is_watched_while_other_memory_is_moved(
    mapper: Mapper, told: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses to protect pages meanwhile: the process stands still for that."""
    protect, refused = uffd.protect, []

    def refusing(descriptor: int, start: int, end: int) -> None:
        if start not in refused:
            refused.append(start)
            raise BlockingIOError
        protect(descriptor, start, end)

    monkeypatch.setattr(uffd, "protect", refusing)
    mapper.map(NEW, 8)
    write(mapper, NEW, 8)
    assert told.round().pages >= 8
    assert NEW in refused
    assert told.round().pages <= A_FEW
    write(mapper, NEW, 1)
    assert told.round().pages >= 1


# A program that moves memory without pause


@pytest.fixture
def restless(start: Start, programs: Path) -> App:
    app = start(programs / "mover")
    ask(app)
    return app


def ask(app: App) -> tuple[float, int]:
    """Return the longest move since the last call, in seconds, and how many there were in all."""
    longest, count, wrong = map(int, app.ask("how").split())
    assert wrong == 0
    return longest / 1e9, count


def test_who_moves_memory_without_pause_is_not_kept_waiting(restless: App, move: Mover) -> None:
    usual, _ = ask(restless)
    moving = move(restless, tracker=TOLD)
    longest, before = ask(restless)
    for _ in range(12):
        moving.round()
        took, count = ask(restless)
        longest = max(longest, took)
        assert count > before
        before = count
    print(f"longest: {usual * 1e3:.2f} ms untracked, {longest * 1e3:.2f} ms; {moving.rounds}")
    assert longest < MOMENT
    begun = time.monotonic()
    moving.freeze()
    assert time.monotonic() - begun < 2 * MOMENT
    assert differing(restless, moving.target) == []
    app = moving.switch()
    assert ask(app)[1] >= before


def test_it_is_frozen_and_let_go_again_and_again(
    start: Start, programs: Path, move: Mover, version: int
) -> None:
    app = start(programs / "mover", version=version)
    for _ in range(8):
        moving = move(app, tracker=TOLD)
        moving.round()
        begun = time.monotonic()
        moving.freeze()
        assert time.monotonic() - begun < 2 * MOMENT
        assert differing(app, moving.target) == []
        moving.give_up()
        assert ask(app)[0] < pace.limit(10)
    assert not watched(app)


def watched(app: App) -> bool:
    """Tell whether a mapping of it is registered with a userfaultfd, or it has a descriptor."""
    names = [os.readlink(f"/proc/{app.pid}/fd/{number}") for number in descriptors(app.pid)]
    return "anon_inode:[userfaultfd]" in names or any(
        "uw" in details.flags for details in read_area_details(app.pid).values()
    )


def test_what_listens_goes_when_it_is_closed(mapper: Mapper, told: Move) -> None:
    assert watched(mapper.app)
    threads = set(os.listdir("/proc/self/task"))
    told.give_up()
    assert not watched(mapper.app)
    assert set(os.listdir("/proc/self/task")) < threads


# The tracker's death


class Silent:
    """Reads nothing."""

    def __init__(self, _: int) -> None:
        """Let whoever moves memory wait."""

    def take(self) -> tuple[list[object], bool]:
        return [], False

    def close(self) -> None:
        """Go on."""


def tracking(app: App, *, rounds: bool, heard: bool = True) -> Callable[[Say], None]:
    """Return what watches a program until it is killed."""

    def work(say: Say) -> None:
        if not heard:
            pytest.MonkeyPatch().setattr(moves, "Listener", Silent)
        outgoing = Outgoing(app.pid, app.cgroup.freezer, app.streams(), CACHE)
        outgoing.start(live=True, tracker=TOLD)
        outgoing.round(lambda *_: None)
        say()
        while rounds:
            outgoing.round(lambda *_: None)
        signal.pause()

    return work


@pytest.fixture
def waiting(mapper: Mapper) -> Iterator[Forked]:
    """Return a tracker for which the program waits within mremap(2)."""
    mapper.map(NEW, 8)
    write(mapper, NEW, 8)
    with Forked(tracking(mapper.app, rounds=False, heard=False)) as child:
        assert child.hear()
        mapper.command(CALL, NR_MREMAP, NEW, 8 * PAGE, 8 * PAGE, MAYMOVE | FIXED, NEW + HUGE)
        mapper.app.settle(NR_MREMAP)
        time.sleep(0.1)
        mapper.app.settle(NR_MREMAP)
        yield child


def test_the_death_of_the_tracker_lets_a_move_go_on(mapper: Mapper, waiting: Forked) -> None:
    assert waiting.kill() == -signal.SIGKILL
    assert mapper.answers() == [NEW + HUGE]
    assert not watched(mapper.app)
    assert mapper.call(NR_GETPID) == 1


@pytest.mark.usefixtures("waiting")
def test_an_application_that_waits_for_the_tracker_can_be_killed(mapper: Mapper) -> None:
    os.kill(mapper.app.pid, signal.SIGKILL)
    assert mapper.app.wait() == -signal.SIGKILL


def test_a_tracker_that_dies_at_random_instants_leaves_nothing(restless: App) -> None:
    chance = random.Random(FIRST)
    for _ in range(12):
        with Forked(tracking(restless, rounds=True)) as child:
            assert child.hear()
            child.pause(chance.random() * 0.05)
            os.kill(child.pid, signal.SIGKILL)
            begun = time.monotonic()
            ask(restless)
            assert time.monotonic() - begun < 2 * MOMENT
            assert child.wait() == -signal.SIGKILL
        assert not watched(restless)
    assert ask(restless)[0] < MOMENT


def test_a_tracker_that_is_stopped_stops_who_moves_memory_and_nothing_else(mapper: Mapper) -> None:
    """Nobody but the tracker can end that: by going on, or by its end."""
    mapper.map(NEW, 8)
    write(mapper, NEW, 8)
    with Forked(tracking(mapper.app, rounds=False)) as child:
        assert child.hear()
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        write(mapper, ARENA, 4)
        assert mapper.call(NR_GETPID) == 1
        mapper.command(CALL, NR_MREMAP, NEW, 8 * PAGE, 8 * PAGE, MAYMOVE | FIXED, NEW + HUGE)
        mapper.app.settle(NR_MREMAP)
        os.kill(child.pid, signal.SIGCONT)
        assert mapper.answers() == [NEW + HUGE]


def test_the_listener_stays_in_front_of_all(mapper: Mapper, told: Move) -> None:
    """Where the rest of us stands back, the application still does not wait for long."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    background()
    try:
        found = [
            os.getpriority(os.PRIO_PROCESS, int(each)) for each in os.listdir("/proc/self/task")
        ]
    finally:
        foreground()
        os.setpriority(os.PRIO_PROCESS, 0, own)
    assert -10 in found
    remap(mapper, OLD, MANY, NEW)
    assert told.round().pages <= A_FEW
