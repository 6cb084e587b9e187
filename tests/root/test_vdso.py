"""Moves between kernels that map other vDSOs: what a program has looked up in one goes on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from livemig import vdso
from livemig.errors import MachineMismatch, NotCarried, ProtocolError
from livemig.extract import read_layout
from livemig.extract.properties import Properties
from livemig.model import Kind, Mapping, VdsoImage
from livemig.rounds import LayoutUpdate
from livemig.stub import hold_path
from tests import vdsos
from tests.fuzzing import SEED
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.halves import SOURCE, Halves
from tests.root.loopback import Move, Mover

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

Alter = Callable[[bytes], bytes]


@pytest.fixture
def clocks(start: Start, programs: Path) -> App:
    """Start the program that reads all clocks without pause."""
    app = start(programs / "vdso")
    assert app.answer() == "ready"
    return app


@pytest.fixture
def abroad(move: Mover) -> Callable[..., Move]:
    """Begin a move to a kernel with another vDSO: what the source has is told as another one."""

    def mover(app: App, *, alter: Alter = vdsos.other, live: bool = True) -> Move:
        moving = move(app, live=live)
        moving.outgoing.foreign = True
        moving.arriving = lambda update: altered(update, alter)
        return moving

    return mover


def altered(update: LayoutUpdate, alter: Alter) -> LayoutUpdate:
    """Return a layout with another image of the kernel's own vDSO."""
    own = {each.start for each in update.layout.mappings if each.kind is Kind.VDSO}
    images = (
        VdsoImage(each.start, alter(each.code)) if each.start in own else each
        for each in update.vdsos
    )
    return replace(update, vdsos=tuple(images))


def mappings(app: App) -> tuple[Mapping, ...]:
    return read_layout(app.pid, 1).mappings


def one(app: App, kind: Kind) -> Mapping:
    (found,) = (each for each in mappings(app) if each.kind is kind)
    return found


def check(app: App) -> None:
    """See that all clocks are right, and still read."""
    before = int(app.ask("calls"))
    assert app.ask("check") == "ok", app.errors()
    assert int(app.ask("calls")) > before


@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_what_was_looked_up_leads_into_the_other_vdso(
    clocks: App, abroad: Callable[..., Move], live: bool
) -> None:
    home = one(clocks, Kind.VDSO)
    assert f"{home.start:x}" == clocks.ask("where")
    app = abroad(clocks, live=live).run(rounds=2 if live else 0)
    check(app)
    copy, own = one(app, Kind.FOREIGN), one(app, Kind.VDSO)
    assert (copy.start, copy.end, copy.prot) == (home.start, home.end, home.prot)
    assert own.start > one(app, Kind.STACK).start, "it is where mmap(2) puts nothing"
    assert f"{copy.start:x}" == app.ask("where")


def test_to_and_fro_leaves_one_copy(clocks: App, abroad: Callable[..., Move], move: Mover) -> None:
    app = clocks
    home = one(app, Kind.VDSO).start
    counts = []
    for turn in range(8):
        begin = move if turn % 4 == 2 else abroad
        app = begin(app).run(rounds=turn % 3)
        check(app)
        assert one(app, Kind.FOREIGN).start == home
        counts.append(Counter(each.kind for each in mappings(app)))
    assert counts[-1] == counts[0], "mappings pile up"


def test_a_program_that_reads_nothing_but_the_clock(
    clocks: App, abroad: Callable[..., Move]
) -> None:
    """It is hardly ever stopped outside of the vDSO, whose code is not there any more."""
    assert clocks.ask("spin") == "spinning"
    app = clocks
    for _ in range(6):
        app = abroad(app).run(rounds=1)
        check(app)
    assert app.ask("mix") == "mixing"
    check(app)


def test_a_death_while_it_is_led_out_of_the_vdso_leaves_it_alone(clocks: App, start: Start) -> None:
    assert clocks.ask("spin") == "spinning"
    chance = random.Random(SEED)
    died = 0
    for _ in range(8):
        target = start(hold_path(), version=clocks.cgroup.version)
        last = {SOURCE: ("freeze", chance.randrange(5, 40))}
        halves = Halves(clocks, target, live=False, last=last, foreign=True)
        try:
            source, clocks = clocks, halves.settle()
            died += halves.died(SOURCE) and clocks is source
        finally:
            halves.board.close()
        check(clocks)
    assert died


@pytest.mark.parametrize("stack", ["same", "alternate"])
def test_a_handler_that_returns_into_the_vdso_is_waited_for(
    clocks: App, abroad: Callable[..., Move], monkeypatch: pytest.MonkeyPatch, stack: str
) -> None:
    assert clocks.ask(f"interrupt {stack}") == "inside"
    clocks.settle()
    moving = abroad(clocks)
    moving.round()
    with monkeypatch.context() as patch:
        patch.setattr("livemig.outgoing._LEAVING", 0.2)
        with pytest.raises(NotCarried, match=f"{clocks.pid}: a signal handler that interrupted it"):
            moving.freeze()
    moving.give_up()
    assert clocks.ask("go on") == "left"
    check(clocks)
    app = abroad(clocks).run()
    check(app)


def test_a_handler_that_interrupted_the_vdso_moves_to_the_same_kernel(
    clocks: App, move: Mover
) -> None:
    assert clocks.ask("interrupt same") == "inside"
    app = move(clocks).run()
    assert app.ask("go on") == "left"
    check(app)


def test_what_the_other_vdso_lacks_is_a_system_call(
    clocks: App, abroad: Callable[..., Move], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = vdso.own()
    names = clocks.ask("entries").split()
    assert {"clock_gettime", "time"} <= set(names)
    with monkeypatch.context() as patch:
        poor = replace(own, code=vdsos.without(own.code, *names))
        assert not set(vdso.entries(poor.code)) & set(names)
        patch.setattr("livemig.vdso.own", lambda: poor)
        app = abroad(clocks).run()
        check(app)
        app = abroad(app).run()
        check(app)
    app = abroad(app).run()
    check(app)


def test_its_random_states_arrive_where_no_memory_is_droppable(
    clocks: App, abroad: Callable[..., Move], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"dd", "dp", "nr", "wf"}
    if not states(clocks):
        pytest.skip("this kernel's vDSO has no getrandom")
    assert states(clocks) == [flags]
    with monkeypatch.context() as patch:
        patch.setattr("livemig.inject.droppable.is_known", lambda: False)
        app = abroad(clocks).run()
    check(app)
    assert states(app) == [flags - {"dp"}]
    app = abroad(app).run()
    check(app)


def states(app: App) -> list[set[str]]:
    """Return the flags of memory that is wiped on a fork, as that for states of getrandom is."""
    found = read_layout(app.pid, 1, Properties(app.pid), frozen=True).mappings
    return [set(each.flags) for each in found if "wf" in each.flags]


def test_what_would_lead_nowhere_is_named(clocks: App, abroad: Callable[..., Move]) -> None:
    moving = abroad(clocks, alter=lambda code: vdsos.renamed(code, "getcpu", "getcow"))
    with pytest.raises(MachineMismatch, match="lacks getcow, which the source's has"):
        moving.round()
    moving.give_up()
    check(clocks)


def test_a_program_that_is_executed_there_has_the_vdso_of_that_kernel(
    clocks: App, abroad: Callable[..., Move]
) -> None:
    app = abroad(clocks).run()
    app.tell("exec")
    assert app.answer() == "ready"
    assert {each.kind for each in mappings(app)} & {Kind.VDSO, Kind.FOREIGN} == {Kind.VDSO}
    app = abroad(app).run()
    check(app)
    assert one(app, Kind.FOREIGN).start == int(app.ask("where"), 16)


def test_one_that_is_executed_during_a_move_arrives(
    clocks: App, abroad: Callable[..., Move]
) -> None:
    moving = abroad(abroad(clocks).run())
    moving.round()
    moving.source.tell("exec")
    assert moving.source.answer() == "ready"
    app = moving.run(rounds=1)
    check(app)
    assert one(app, Kind.FOREIGN).start == int(app.ask("where"), 16)


@pytest.mark.parametrize(
    "alter",
    [
        lambda _: b"",
        lambda code: code[:-4096],
        lambda code: bytes(len(code)),
        lambda _: b"x" * 8192,
    ],
    ids=["none", "short", "zeros", "garbage"],
)
def test_an_image_that_is_none_is_refused(
    clocks: App, abroad: Callable[..., Move], alter: Alter
) -> None:
    moving = abroad(clocks, alter=alter)
    with pytest.raises(ProtocolError, match="vDSO"):
        moving.round()
    moving.give_up()
    check(clocks)
