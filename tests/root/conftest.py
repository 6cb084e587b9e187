"""Programs, compiled once; processes and control groups that are gone after each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from livemig.errors import KernelLacks
from livemig.model import TRACKERS, LayoutChoice, TrackerChoice
from livemig.stub import hold_path
from tests.conftest import required
from tests.programs import copy_to
from tests.root.apps import App, cgroup_root
from tests.root.loopback import CACHE, LAYOUT, Move, Mover

Start = Callable[..., App]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the compiled workloads."""
    place = tmp_path_factory.mktemp("programs")
    copy_to(place)
    return place


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    """End at the test's end what it has started."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(scope: ExitStack) -> Start:
    """Start a program."""

    def starter(*argv: str | Path, version: int | None = None) -> App:
        app = App(argv, version=version)
        scope.callback(app.close)
        return app

    return starter


@pytest.fixture
def carried(start: Start, programs: Path, tmp_path: Path) -> App:
    """Start the program that has one of everything."""
    app = start(programs / "carried", tmp_path)
    assert app.answer() == "ready"
    return app


@pytest.fixture
def move(start: Start, scope: ExitStack) -> Mover:
    """Begin a move of a program into a held one, which ``held`` are the words of."""

    begun: list[Move] = []

    def mover(
        app: App,
        *,
        live: bool = True,
        cache: int = CACHE,
        tracker: TrackerChoice = "auto",
        layout: LayoutChoice = LAYOUT,
        held: Sequence[str | Path] = (),
    ) -> Move:
        target = start(*(held or (hold_path(),)), version=app.cgroup.version)
        target.await_program(hold_path())
        try:
            found = Move(app, target, live=live, cache=cache, tracker=tracker, layout=layout)
        except KernelLacks as error:
            if tracker in required():
                raise
            LACKING[tracker] = error.message
            pytest.skip(error.message)
        begun[:] = [each for each in begun if not each.closed]  # a thousand are not kept
        begun.append(found)
        scope.callback(_close_all, begun)
        return found

    return mover


def _close_all(moves: list[Move]) -> None:
    while moves:
        moves.pop().close()


LACKING: dict[str, str] = {}


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest) -> TrackerChoice:
    """Return a tracker; one that this kernel has been found to lack is skipped."""
    if request.param in LACKING:
        pytest.skip(LACKING[request.param])
    return cast("TrackerChoice", request.param)


@pytest.fixture(params=[1, 2], ids=["freezer-v1", "freezer-v2"])
def version(request: pytest.FixtureRequest) -> int:
    """Return a version of the freezer that this machine has."""
    found = int(request.param)
    if cgroup_root(found) is None:
        pytest.skip(f"no freezer of cgroup v{found} is mounted")
    return found


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    """Fail a test that leaves a descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {name: _target(name) for name in set(os.listdir("/proc/self/fd")) - before}
    assert not {name: what for name, what in left.items() if what}


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # the descriptor that listed them
        return ""
