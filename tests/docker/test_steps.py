"""Whatever is killed at whatever step: one copy runs, nothing is lost, and nothing is left.

A step has a name (docker_livemig.steps). At each the move is stopped (stopper.py), something is
killed (killers.py), the rest goes on, and what was broken is mended. Then `docker livemig recover`
on both hosts must end the move without a word of the operator's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.conftest import NothingLeft
from tests.docker import stopper
from tests.docker.killers import KILLERS, PEER, engines, stoppable, strike
from tests.docker.moves import Pair, move, processes, set_up
from tests.hosts import Host
from tests.typist import Typist

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

NAME = "stepping"

# Which killers strike at which step; in `make test-long` all of them then strike at all steps.
CASES: dict[str, tuple[str, ...]] = {
    "source connect": ("command",),
    "source prepare": ("source's peer",),
    "source image": ("target's peer",),
    "source create": ("source's peer",),
    "source files": ("target's peer",),
    "source round": ("source's peer",),
    "source freeze": ("command", "source's engine"),
    "source last-round": ("source's peer",),
    "source state": ("source's peer",),
    "source rebuild": ("target's peer",),
    "source commit": ("source's peer",),
    "source finish": ("source's peer",),
    "source farewell": ("source's peer",),
    "source <begun": ("command",),
    "source >begun": ("source's peer",),
    "source <freezing": ("source's peer",),
    "source >freezing": ("source's peer",),
    "source <committed": ("source's peer", "target's peer", "target's host", "source's host"),
    "source >committed": ("source's engine", "source's peer", "target's peer", "link"),
    "source <-": ("source's peer",),
    "source >-": ("target's peer",),
    "target accept": ("target's peer",),
    "target image": ("source's peer",),
    "target create": ("target's peer",),
    "target follow": ("command",),
    "target rebuild": ("target's peer",),
    "target stand": ("source's peer",),
    "target start": ("target's peer",),
    "target finish": ("source's peer",),
    "target <accepted": ("source's peer",),
    "target >accepted": ("target's peer",),
    "target <loading": ("target's peer",),
    "target >loading": ("source's peer",),
    "target <creating": ("target's peer",),
    "target >creating": ("target's engine",),
    "target <held": ("target's peer",),
    "target >held": ("target's peer",),
    "target <ready": ("target's peer",),
    "target >ready": ("target's peer", "link"),
    "target <started": ("target's peer", "target's engine"),
    "target >started": ("target's peer", "source's peer"),
    "target <running": ("target's peer",),
    "target >running": ("source's peer",),
    "target <-": ("target's peer",),
    "target >-": ("target's peer",),
}

# States that no move goes through by itself: they follow a kill, or an operator's word.
BESIDE_THE_WAY = {
    *("source <returned", "source >returned"),
    *("target <lost", "target >lost"),
}


class Container:
    """A container that somebody types into, wherever it is."""

    def __init__(self, pair: Pair, image: str) -> None:
        self.pair = pair
        self._image = image
        run = ["docker", "run", "-d", "-i", "--restart", "always", "--name", NAME, image]
        pair[0].run(run)
        self._type()

    def _type(self) -> None:
        self.typist = Typist(self.pair, NAME, limit=200).start()
        self.typist.wait_for(5)

    def close(self) -> None:
        self.typist.stop(check=False)
        for host in self.pair:
            host.run(["docker", "rm", "-f", NAME], check=False)

    def place(self) -> Host:
        """Return the only host that has a container of that name, which runs there."""
        found = [(host, state) for host in self.pair for state in states(host)]
        assert [state for _, state in found] == ["running"], found
        return found[0][0]

    def strike(self, point: str, killer: str, kept: bool = True) -> None:
        """Have the killer strike at the step, and see what became of it all.

        ``kept``: a copy that knows what was typed is left, if the killer leaves one.
        """
        source = self.place()
        pair = self.pair if source is self.pair[0] else (self.pair[1], self.pair[0])
        lossless = strike(pair, NAME, point, killer) and kept
        for host in pair:
            recover(host)
        for host in pair:
            assert journals(host) == []
            held = host.run(["ls", "-A", "/var/lib/livemig/.hold"], check=False)
            assert held.stdout == ""
        # A target that was told everything before its source's host died may get ready after that.
        arrived = self.place() is pair[1] and killer == "source's host"
        if lossless or arrived:
            self.typist.wait_for(5)
            self.typist.verify()
        else:
            self.typist.stop(check=False)
            self._type()

    def strike_all(self, cases: Sequence[tuple[str, str]]) -> None:
        """Have each killer strike at its step, and see that the container can be moved then."""
        for point, killer in cases:
            begun = time.monotonic()
            print(f"{killer} at the step {point!r}", end=": ", flush=True)
            try:
                self.strike(point, killer)
            except BaseException as error:
                error.add_note(f"{killer} killed at the step {point!r}")
                raise
            print(f"{time.monotonic() - begun:.1f} s, it runs in {self.place().name}")
        self.move()

    def move(self) -> None:
        """See that it can be moved as if nothing had been."""
        source = self.place()
        target = next(host for host in self.pair if host is not source)
        move(source, NAME, target, "--verify")
        assert self.place() is target
        self.typist.wait_for(5)
        self.typist.verify()


def states(host: Host) -> list[str]:
    found = host.run(["docker", "ps", "-a", "--filter", f"name={NAME}", "--format", "{{.State}}"])
    return found.stdout.split()


def journals(host: Host) -> list[str]:
    return host.run(["ls", "/var/lib/livemig"]).stdout.split()


def recover(host: Host) -> None:
    """End what is not ended, without a word of the operator's."""
    if journals(host):
        words = ["docker", "livemig", "recover", "--format", "json"]
        said = host.run(words, timeout=100).stdout
        assert "in-doubt" not in [each["result"] for each in json.loads(said)["outcomes"]], said


@pytest.fixture(scope="module")
def ready(hosts: Pair, recorder_image: str) -> Iterator[Pair]:
    assert recorder_image
    set_up(hosts)
    with stoppable(hosts):
        yield hosts


@pytest.fixture
def container(ready: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Container]:
    # A host that was restarted has other processes, mounts and interfaces than before.
    for kind in ("images", "processes", "mounts", "networks", "cgroups"):
        nothing_left.ignore(kind)
    made = Container(ready, recorder_image)
    try:
        yield made
    finally:
        made.close()
    for host in ready:
        assert not processes(host, *PEER)


def test_every_step_has_a_case() -> None:
    assert set(CASES) | BESIDE_THE_WAY == set(stopper.points())
    assert {killer for killers in CASES.values() for killer in killers} == set(KILLERS)


def test_a_move_goes_through_every_step_that_has_a_name(container: Container) -> None:
    passed: set[str] = set()
    for host in container.pair:
        host.run(["mkdir", "-p", str(stopper.DIRECTORY)])
        host.path(stopper.DIRECTORY / "trace").touch()
    container.move()
    for host in container.pair:
        passed |= set(host.path(stopper.DIRECTORY / "trace").read_text().splitlines())
        host.run(["rm", "-r", str(stopper.DIRECTORY)])
    assert passed == set(CASES)


# What ends or comes back within a moment. The others take the time of a daemon, or of a silence.
QUICK = ("command", "source's peer", "target's peer")

GROUPS = {
    f"{role} {kind}": [
        (point, killer)
        for point, killers in CASES.items()
        for killer in killers
        if killer in QUICK
        and point.startswith(role)
        and (("<" in point or ">" in point) == (kind == "journal"))
    ]
    for role in (stopper.SOURCE, stopper.TARGET)
    for kind in ("phases", "journal")
}

# Of the others, one of each where it tells most is in `make test`.
TELLING = [
    ("source freeze", "source's engine"),
    ("source <committed", "target's host"),
    ("source <committed", "source's host"),
    ("source >committed", "link"),
    ("target >creating", "target's engine"),
]

SLOW = [
    (point, killer)
    for point, killers in CASES.items()
    for killer in killers
    if killer not in QUICK and (point, killer) not in TELLING
]


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=[pytest.mark.long] if "journal" in group else [])
        for group in GROUPS
    ],
)
def test_one_copy_is_left_and_nothing_is_lost(container: Container, group: str) -> None:
    container.strike_all(GROUPS[group])


def test_engines_hosts_and_the_link_where_it_tells_most(container: Container) -> None:
    container.strike_all(TELLING)


@pytest.mark.long
@pytest.mark.parametrize("case", SLOW, ids=" ".join)
def test_engines_hosts_and_the_link(container: Container, case: tuple[str, str]) -> None:
    container.strike_all([case])


AT_ONCE = 3  # steps in one test, so that it ends in minutes, and tells where it stands


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, len(CASES), AT_ONCE))
@pytest.mark.parametrize("killer", KILLERS)
def test_every_killer_at_every_step(container: Container, killer: str, first: int) -> None:
    container.strike_all([(point, killer) for point in [*CASES][first : first + AT_ONCE]])


@pytest.mark.long
@pytest.mark.parametrize(
    ("point", "killer", "arrives", "kept"),
    [
        ("source freeze", "a restart of the source's engine", False, False),
        ("source commit", "the source's peer and a restart of its engine", True, True),
        ("source <committed", "a restart of the source's engine", True, True),
        ("source <committed", "a restart of the target's engine", False, True),
        ("target >started", "a restart of the target's engine", True, False),
        ("target <started", "a begun restart of the target's engine", True, False),
    ],
)
def test_a_dockerd_that_ends_its_containers_when_it_starts(
    container: Container, point: str, killer: str, arrives: bool, kept: bool
) -> None:
    with engines(container.pair, live_restore=False):
        source = container.place()
        container.strike(point, killer, kept)
        assert (container.place() is not source) == arrives
    container.move()
