"""Either half of a move dies at any instant: the program never notices, and the next move succeeds.

LIVEMIG_MOVES says how many moves, LIVEMIG_SEED which instants.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from livemig.stub import hold_path
from tests.fuzzing import SEED
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.halves import SOURCE, STEPS, TARGET, Halves, Operation
from tests.root.loopback import Mover
from tests.root.test_borrow import after_over, after_read, after_spin, over, read, spin
from tests.root.test_deaths import left

pytestmark = pytest.mark.root

SHORT = int(os.environ.get("LIVEMIG_MOVES", "40"))
LONG = int(os.environ.get("LIVEMIG_MOVES", "1000"))
VICTIMS = [(SOURCE,), (TARGET,), (SOURCE, TARGET)]
MODES = (True, False)
RENEWED, OLD = 10, 40.0  # moves, and seconds: its timers show how old a program is, up to 100 s
DOING = [(read, after_read), (spin, after_spin), (over, after_over)]


class Deaths:
    """Moves one program again and again, and lets halves of the moves die."""

    def __init__(self, begin: Callable[[], App], start: Start, move: Mover) -> None:
        self._program, self._start, self._move = begin, start, move
        self.app, self.began = begin(), time.monotonic()
        self.seen: Counter[tuple[str, str]] = Counter()
        self.switched = 0
        self._lengths: dict[bool, float] = {}
        self._operations: dict[tuple[bool, str], dict[str, int]] = {}

    def learn(self) -> None:
        """See how long a move takes that nobody disturbs, and of how many operations it is."""
        for live in MODES:
            halves = self._begin(live=live)
            halves.halves[SOURCE].wait()
            self._lengths[live] = time.monotonic() - halves.started
            self.app = halves.settle()
            assert halves.board.committed
            for side in (SOURCE, TARGET):
                self._operations[live, side] = halves.board.operations(side)

    def renew(self) -> None:
        """Go on with a new program: its stack grows whenever it checks itself."""
        assert self.app.end() == 0
        self.app.close()
        self.app, self.began = self._program(), time.monotonic()

    def once(self, chance: random.Random, *, live: bool, victims: tuple[str, ...]) -> None:
        """Let halves of a move die while the program is at work, and move it once more."""
        begin, end = chance.choice(DOING)
        begin(self.app)
        before = left(self.app)
        if chance.random() < 0.5:
            halves = self._killed(chance, live, victims)
        else:
            last = {side: self._operation(chance, live, side) for side in victims}
            halves = self._begin(live=live, last=last)
        source, self.app = self.app, halves.settle()
        for side in filter(halves.died, victims):
            self.seen[side, halves.board.where(side)] += 1
        halves.board.close()
        self.switched += self.app is not source
        end(self.app)
        if self.app is source:
            assert left(self.app) == before, "the death has left something in the program"
        source, self.app = self.app, self._move(self.app, live=live).run()
        source.close()
        after_read(self.app)

    def _operation(self, chance: random.Random, live: bool, side: str) -> Operation:
        """Choose one of any step, be the step ever so short."""
        steps = self._operations[live, side]
        step = chance.choice([*steps])
        return step, chance.randrange(steps[step])

    def _killed(self, chance: random.Random, live: bool, victims: tuple[str, ...]) -> Halves:
        halves = self._begin(live=live)
        time.sleep(chance.random() * self._lengths[live])
        halves.kill(*victims)
        return halves

    def _begin(self, *, live: bool, last: dict[str, Operation] | None = None) -> Halves:
        target = self._start(hold_path(), version=self.app.cgroup.version)
        return Halves(self.app, target, live=live, last=last)


@pytest.fixture
def deaths(programs: Path, tmp_path: Path, start: Start, move: Mover) -> Deaths:
    numbers = itertools.count()

    def begin() -> App:
        place = tmp_path / str(next(numbers))
        place.mkdir()
        app = start(programs / "carried", place)
        assert app.answer() == "ready"
        return app

    found = Deaths(begin, start, move)
    found.learn()
    return found


def run(deaths: Deaths, count: int) -> None:
    chance = random.Random(SEED)
    for number in range(count):
        if number % RENEWED == RENEWED - 1 or time.monotonic() - deaths.began > OLD:
            deaths.renew()
        live, victims = MODES[number % 2], VICTIMS[number // 2 % 3]
        try:
            deaths.once(chance, live=live, victims=victims)
        except BaseException:
            print(f"LIVEMIG_SEED={SEED}: move {number}, live={live}, victims={victims}")
            raise
    print(f"{count} moves, {deaths.seen.total()} deaths, {deaths.switched} had committed")
    for side, step in STEPS:
        print(f"  {side:6} in {step:10} {deaths.seen[side, step]}")


@pytest.mark.timeout(120)
def test_halves_of_moves_die(deaths: Deaths) -> None:
    run(deaths, SHORT)
    assert deaths.switched < SHORT
    assert deaths.seen.total() > SHORT // 2, "too few have died on the way"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_halves_of_many_moves_die(deaths: Deaths) -> None:
    run(deaths, LONG)
    missed = [each for each in STEPS if not deaths.seen[each]]
    assert not missed or LONG < 1000, f"nobody died in {missed}"
