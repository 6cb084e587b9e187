"""A process that has one of everything moves into a held one, and finds all as it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from livemig.errors import InternalError, LivemigError, ProcessGone, ProtocolError, StateMismatch
from livemig.extract import read_layout
from livemig.model import Kind, Layout, MappedFile, Mapping
from livemig.pages import Batch, PageKind
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.system import procfs
from tests import pace
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover
from tests.root.test_borrow import DOING, await_state

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

THOUSAND_SECONDS = 10**12
A_WHILE = int(pace.limit(5) * 10**9)  # ns that a move may take
# What may differ between a process and its copy: who made it, and what it has used up.
OWN = ("Pid", "Ngid", "Tgid", "PPid", "TracerPid", "NSpid", "NStgid", "NSpgid", "NSsid", "State")
USED = ("Vm", "Rss", "voluntary", "nonvoluntary", "SigQ", "Hugetlb", "Cpus", "Mems", "FDSize")


def status(app: App) -> dict[str, str]:
    return {
        name: value
        for name, value in procfs.read_status(app.pid).items()
        if name not in OWN and not name.startswith(USED)
    }


def layout(app: App) -> list[Mapping]:
    """Return its mappings, those made one that could be; the stack may have grown."""
    found: list[Mapping] = []
    for each in read_layout(app.pid, 1).mappings:
        mapping = replace(each, start=0) if each.kind is Kind.STACK else each
        last = found[-1] if found else None
        joined = last and last.end == each.start and last.prot == each.prot
        if last and joined and last.same_backing(each):
            mapping = replace(found.pop(), end=each.end)
        found.append(mapping)
    return found


@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_all_is_as_it_was(
    start: Start, programs: Path, tmp_path: Path, move: Mover, live: bool, version: int
) -> None:
    app = start(programs / "carried", tmp_path, version=version)
    assert app.answer() == "ready"
    assert app.ask("check") == "ok", app.errors()
    app.settle()
    before = status(app), layout(app)
    app = move(app, live=live).run(rounds=2 if live else 0)
    app.settle()
    assert status(app) == before[0]
    assert set(layout(app)) ^ set(before[1]) == set()
    assert app.ask("check") == "ok", app.errors()


@pytest.mark.parametrize("doing", DOING)
def test_it_goes_on_with_what_it_was_doing(carried: App, move: Mover, doing: str) -> None:
    begin, end = DOING[doing]
    begin(carried)
    end(move(carried).run())


def test_it_moves_again_and_again(carried: App, move: Mover) -> None:
    app = carried
    for turn in range(6):
        app = move(app, live=bool(turn % 3)).run(rounds=turn % 3)
        assert app.ask("check") == "ok", app.errors()
    assert app.ask("take") == "took 7"
    assert len(read_layout(app.pid, 1).mappings) < 100, "mappings pile up"


def test_signals_that_come_while_it_is_frozen_arrive_once(carried: App, move: Mover) -> None:
    carried.settle()
    moving = move(carried)
    moving.round()
    moving.freeze()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, *[signal.SIGRTMIN] * 4):
        os.kill(carried.pid, number)
    app = moving.switch()
    assert app.ask("seen") == "1 1 1 4"
    assert app.ask("check") == "ok", app.errors()


def test_a_timer_goes_on_ticking(carried: App, move: Mover) -> None:
    assert carried.ask("tick") == "ticking"
    app = move(carried).run(rounds=4)
    assert app.ask("ticks") == "ticked"
    app = move(app).run()
    assert app.ask("take") == "took 7"


def test_no_signal_is_lost_on_the_way(carried: App, move: Mover) -> None:
    """Some come while it runs, some while it stands still, some while it is not there any more."""
    moving = move(carried)
    sent = 0

    def send() -> None:
        nonlocal sent
        os.kill(carried.pid, signal.SIGRTMIN)
        sent += 1

    moving.between = send
    app = moving.run(rounds=5)
    assert sent > 10
    assert app.ask("seen") == f"0 0 0 {sent}"
    assert app.ask("check") == "ok", app.errors()


# Its standard streams


def test_unread_input_arrives_whole_lines_and_parts(carried: App, move: Mover) -> None:
    carried.settle()
    moving = move(carried)
    moving.round()
    moving.freeze()
    carried.send(b"check\nseen\nche")
    app = moving.switch()
    app.send(b"ck\n")
    assert [app.answer() for _ in range(3)] == ["ok", "1 0 0 0", "ok"], app.errors()


def test_input_that_came_after_the_freeze_is_forwarded(carried: App, move: Mover) -> None:
    carried.settle()
    moving = move(carried)
    moving.freeze()
    carried.send(b"seen\n")
    late = b"check\n"
    moving.before_kill = lambda: carried.send(late)
    app = moving.switch()
    assert app.answer() == "0 0 0 0"
    assert app.answer() == "ok"


def test_input_that_has_ended_has_ended_there_too(carried: App, move: Mover) -> None:
    carried.settle()
    moving = move(carried)
    moving.freeze()
    carried.send(b"check\n")
    carried.pipes[0].close()
    app = moving.switch()
    assert app.answer() == "ok", app.errors()
    assert app.wait() == 0, "it has seen the end of its input"


# Clocks


def test_clocks_go_on_there_and_back(carried: App, move: Mover) -> None:
    """The target's clocks are a thousand seconds behind, then the same number ahead."""
    before = clocks(carried)
    app = move(carried).run(later=THOUSAND_SECONDS)
    there = clocks(app)
    assert app.ask("check") == "ok", app.errors()
    for old, new in zip(before, there, strict=True):
        assert THOUSAND_SECONDS < new - old < THOUSAND_SECONDS + A_WHILE
    app = move(app).run()
    for old, new in zip(there, clocks(app), strict=True):
        assert 0 < new - old < A_WHILE
    assert app.ask("check") == "ok", app.errors()


def clocks(app: App) -> list[int]:
    return [int(word) for word in app.ask("clocks").split()]


# Who it is


def test_it_is_confined_as_it_was(carried: App, move: Mover) -> None:
    assert carried.ask("confine") == "confined"
    assert carried.ask("confined") == "yes"
    carried.settle()
    before = status(carried)
    app = move(carried).run()
    app.settle()
    assert status(app) == before
    assert app.ask("confined") == "yes"
    again = move(app).run()
    assert again.ask("confined") == "yes", "filters and rights do not pile up or go away"
    assert status(again) == before


def test_memory_that_is_not_used_stays_so(carried: App, move: Mover) -> None:
    """Zero pages, file pages and untouched memory do not turn into memory of its own."""
    carried.settle()
    before = resident(carried)
    app = move(carried).run()
    app.settle()
    assert resident(app) <= before * 1.05


def resident(app: App) -> int:
    return int(procfs.read_status(app.pid)["RssAnon"].split()[0])


# Moves that are given up


@pytest.mark.parametrize("step", ["begun", "round", "frozen", "last-round", "extracted"])
@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_a_move_that_is_given_up_leaves_the_source_as_it_was(
    carried: App, move: Mover, step: str, live: bool
) -> None:
    assert carried.ask("check") == "ok"
    carried.settle()
    before = status(carried), layout(carried)
    moving = move(carried, live=live)
    steps = {
        "begun": lambda: None,
        "round": moving.round,
        "frozen": moving.outgoing.freeze,
        "last-round": moving.round,
        "extracted": moving.outgoing.extract,
    }
    for name, act in steps.items():
        act()
        if name == step:
            break
    moving.give_up()
    carried.settle()
    assert (status(carried), layout(carried)) == before
    assert carried.ask("check") == "ok", carried.errors()
    app = move(carried).run()
    assert app.ask("check") == "ok", app.errors()


def test_a_target_that_is_not_sealed_dies_with_us(carried: App, move: Mover) -> None:
    carried.settle()
    moving = move(carried)
    moving.round()
    moving.give_up()
    assert not Path(f"/proc/{moving.target.pid}").exists()


def test_a_sealed_source_does_not_run_when_we_die(carried: App, move: Mover) -> None:
    carried.settle()
    moving = move(carried)
    moving.freeze()
    moving.state()
    moving.outgoing.seal()
    moving.close()
    carried.tell("check")
    assert carried.cgroup.freezer.frozen()
    carried.cgroup.freezer.thaw()
    assert carried.answer() == "ok", carried.errors()
    assert carried.ask("check") == "ok"


STEPS: dict[str, Callable[[Move], object]] = {
    "round": lambda moving: moving.round(),
    "freeze": lambda moving: moving.outgoing.freeze(),
    "last-round": lambda moving: moving.round(),
    "extract": lambda moving: moving.outgoing.extract(),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_a_source_that_ends_is_told_at_each_step(
    carried: App, move: Mover, step: str, live: bool
) -> None:
    moving = move(carried, live=live)
    for name, act in STEPS.items():
        if name == step:
            os.kill(carried.pid, signal.SIGKILL)
            carried.cgroup.freezer.thaw()
            await_state(carried, "Z")
            break
        act(moving)
    with pytest.raises(ProcessGone, match=f"{carried.pid}"):
        STEPS[step](moving)
    moving.give_up()
    carried.wait()


@pytest.mark.parametrize("step", ["round", "last-round", "rebuild", "seal"])
def test_a_target_that_ends_leaves_the_source_running(carried: App, move: Mover, step: str) -> None:
    carried.settle()
    moving = move(carried)
    moving.round()

    def kill(here: str) -> None:
        if here == step:
            os.kill(moving.target.pid, signal.SIGKILL)
            await_state(moving.target, "Z")

    def go_on() -> None:
        kill("round")
        moving.round()
        moving.outgoing.freeze()
        kill("last-round")
        moving.round()
        image = moving.state()
        kill("rebuild")
        moving.incoming.rebuild(image)
        kill("seal")
        moving.incoming.seal(image)

    started = time.monotonic()
    with pytest.raises(LivemigError) as caught:
        go_on()
    assert not isinstance(caught.value, InternalError)
    moving.give_up()
    assert time.monotonic() - started < 5
    assert carried.ask("check") == "ok", carried.errors()


# What the target does not take


def test_a_mapped_file_that_differs_is_told(carried: App, move: Mover) -> None:
    carried.settle()
    moving = move(carried)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("livemig.incoming.digest_file", lambda _, path: MappedFile(path, 1, b""))
        with pytest.raises(StateMismatch, match="has other content on the target"):
            moving.round()
    moving.give_up()
    assert carried.ask("check") == "ok", carried.errors()


def test_a_mapped_file_that_is_missing_is_told(carried: App, move: Mover, tmp_path: Path) -> None:
    """The one that it had mapped is renamed: deleted it would be refused."""
    carried.settle()
    moving = move(carried)
    (tmp_path / "mapped").rename(tmp_path / "other")
    moving.between = lambda: (tmp_path / "other").rename(tmp_path / "mapped")
    with pytest.raises(StateMismatch, match="other is missing on the target"):
        moving.round()
    moving.give_up()
    assert carried.ask("check") == "ok", carried.errors()


def test_a_copy_that_is_confined_otherwise_is_told(carried: App, move: Mover) -> None:
    """No security module labels processes on every machine: another label is sent than there is."""
    carried.settle()
    moving = move(carried)
    moving.round()
    moving.freeze()
    image = moving.state()
    process = image.processes[0]
    other = replace(process, credentials=replace(process.credentials, lsm="other (enforce)"))
    with pytest.raises(StateMismatch, match="LSM label"):
        moving.incoming.rebuild(replace(image, processes=(other,)))
    moving.give_up()
    assert carried.ask("check") == "ok", carried.errors()


PLACE = 0x70_0000_0000
ONE = Mapping(PLACE, PLACE + 4096, 3, Kind.ANONYMOUS)
TWICE, NO_PAGES, LOW = (
    "overlaps itself at",
    "has no mapping of pages at",
    "is below vm.mmap_min_addr",
)
LAYOUTS: dict[str, tuple[str, tuple[Mapping, ...]]] = {
    "overlap": (TWICE, (ONE, replace(ONE, end=PLACE + 8192))),
    "descending": (TWICE, (ONE, replace(ONE, start=PLACE - 8192, end=PLACE - 4096))),
    "empty": (TWICE, (replace(ONE, end=PLACE),)),
    "negative": (TWICE, (replace(ONE, end=PLACE - 4096),)),
    "unaligned": (NO_PAGES, (replace(ONE, start=PLACE + 8),)),
    "unaligned-end": (NO_PAGES, (replace(ONE, end=PLACE + 4097),)),
    "below": (TWICE, (replace(ONE, start=-4096, end=0),)),
    "low": (LOW, (replace(ONE, start=0, end=4096),)),
    "kernel": (NO_PAGES, (replace(ONE, start=1 << 63, end=(1 << 63) + 4096),)),
    "huge": (NO_PAGES, (replace(ONE, start=0, end=1 << 70),)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_cannot_be_is_refused(carried: App, move: Mover, name: str) -> None:
    words, mappings = LAYOUTS[name]
    moving = move(carried, live=False)
    with pytest.raises(ProtocolError, match=rf"the layout {words}"):
        moving.incoming.follow(LayoutUpdate(Layout(1, mappings), ()))
    moving.give_up()


def test_pages_before_their_layout_are_refused(carried: App, move: Mover) -> None:
    moving = move(carried, live=False)
    with pytest.raises(ProtocolError, match="layout"):
        moving.incoming.write(Batch(1, ((PLACE, 1, PageKind.ZERO),), 0, False), b"")
    with pytest.raises(ProtocolError, match="layout"):
        moving.incoming.end_round(RoundEnd(1, 1))
    moving.give_up()
