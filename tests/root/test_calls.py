"""System calls that wait go on as on a quiet machine: on the source, on the target, and back."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from livemig.errors import NotCarried
from livemig.system import procfs, ptrace
from livemig.system.procfs import PROT_EXEC, Area
from livemig.waiting import end_on_time
from tests import pace
from tests.root.apps import App
from tests.root.borrower import Borrower
from tests.root.conftest import Start
from tests.root.loopback import Mover
from tests.root.test_borrow import await_state

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

SLOWER = min(pace.SLOW, 3)  # calls are waited out
LENGTH = int(3200 * SLOWER)  # milliseconds: room for three moves on a busy machine
LATE = 0.6 * SLOWER  # seconds after which a call is first stopped: begun anew, it ends that later
SLACK = 0.5 * SLOWER  # seconds that a busy machine may take to wake somebody; less than LATE
LONG = 2 * LENGTH  # milliseconds; for what something else ends
STEP = 0.2


@dataclass(frozen=True)
class Ended:
    """What the program tells of a call: times in seconds."""

    result: int
    took: float
    rest: float
    signals: int


class Caller:
    """The program that waits in one call after the other."""

    def __init__(self, app: App) -> None:
        self.app = app
        assert app.answer() == "handled"

    def handle(self, how: str) -> None:
        assert self.app.ask(f"handle {how}") == "handled"

    def begin(self, name: str, millis: int = LENGTH) -> None:
        """Let it begin a call, and wait until it sleeps in there."""
        word, number = self.app.ask(f"{name} {millis}").split()
        assert word == "waiting"
        self.app.settle(int(number))

    def waits(self) -> bool:
        """Tell whether it has not told anything yet."""
        return not select.select([self.app.pipes[1]], [], [], 0)[0]

    def stay(self, seconds: float = STEP) -> None:
        """Let it wait for a while: it must not end meanwhile."""
        assert not select.select([self.app.pipes[1]], [], [], seconds)[0], self.app.answer()

    def ended(self) -> Ended:
        word, result, took, rest, signals = self.app.answer().split()
        assert word == "ended", "it has changed what is not its own"
        return Ended(int(result), int(took) / 1e9, int(rest) / 1e9, int(signals))


@pytest.fixture
def caller(start: Start, programs: Path) -> Caller:
    return Caller(start(programs / "calls"))


def undone(caller: Caller, move: Mover, *, live: bool = True) -> None:
    """Begin a move, and undo it when all has been read."""
    moving = move(caller.app, live=live)
    moving.round()
    moving.outgoing.freeze()
    moving.outgoing.extract()
    moving.outgoing.seal()
    moving.give_up()


@contextmanager
def somebody_tracing(pid: int) -> Iterator[None]:
    """Have another process trace one for the length of a scope, as `strace -p` would."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ptrace.seize(pid, 0)
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


def test_a_tracer_who_came_meanwhile_does_not_keep_it_frozen(caller: Caller, move: Mover) -> None:
    """Somebody looks why it stands still. Its call may take longer then, which is all."""
    caller.begin("semtimedop")
    moving = move(caller.app, live=False)
    moving.outgoing.freeze()
    moving.round()
    moving.outgoing.extract()
    moving.outgoing.seal()
    with somebody_tracing(caller.app.pid):
        moving.give_up()
        assert not caller.app.cgroup.freezer.frozen()
        assert caller.ended().result == TIMED["semtimedop"]


def there_and_back(caller: Caller, move: Mover) -> None:
    """Undo a move, and make two, while it waits in one and the same call."""
    caller.stay(LATE)
    undone(caller, move)
    caller.stay(0.02)
    caller.app = move(caller.app).run(rounds=1)
    caller.stay(0.02)
    caller.app = move(caller.app, live=False).run(rounds=0)


def ways_round(caller: Caller) -> list[Area]:
    """Return the pages that the engine has left behind, to make calls from."""
    areas = procfs.read_areas(caller.app.pid)
    return [area for area in areas if area.prot & PROT_EXEC and not area.name]


# Calls that end when their time is over, and what they return then

TIMED = {
    "nanosleep": 0,
    "nanosleep-rest": 0,
    "nanosleep-same": 0,
    "clock": 0,
    "clock-rest": 0,
    "clock-boot": 0,
    "clock-tai": 0,
    "clock-until": 0,
    "poll": 0,
    "ppoll": 0,
    "select": 0,
    "pselect": 0,
    "futex": -errno.ETIMEDOUT,
    "futex-until": -errno.ETIMEDOUT,
    "sigtimedwait": -errno.EAGAIN,
    "sigtimedwait-constant": -errno.EAGAIN,
    "semtimedop": -errno.EAGAIN,
    "pselect-constant": 0,
}


@pytest.mark.parametrize("name", TIMED)
def test_a_call_goes_on_with_the_time_that_is_left(caller: Caller, move: Mover, name: str) -> None:
    caller.begin(name)
    there_and_back(caller, move)
    assert caller.waits(), "it was not moved in the middle of its call"
    found = caller.ended()
    assert found.result == TIMED[name]
    assert LENGTH / 1000 <= found.took < LENGTH / 1000 + SLACK
    assert ways_round(caller) == []


def test_one_that_a_signal_stops_in_its_call_is_left_alone(
    start: Start, programs: Path, move: Mover, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before it is frozen: who attached to it then, for its time, would wait for ever."""
    caller = Caller(start(programs / "calls", version=version))
    caller.begin("sigtimedwait")

    def without_a_way_round(*_: object) -> None:
        raise NotCarried("no room")

    monkeypatch.setattr("livemig.waiting.borrow", without_a_way_round)
    moving = move(caller.app)
    freeze = moving.outgoing.freezer.freeze

    def stop_and_freeze() -> None:
        os.kill(caller.app.pid, signal.SIGSTOP)
        caller.app.await_state("T")
        freeze()

    monkeypatch.setattr(moving.outgoing.freezer, "freeze", stop_and_freeze)
    with pytest.raises(NotCarried, match="was stopped by a signal"):
        moving.outgoing.freeze()
    moving.give_up()
    caller.app.await_state("T")
    os.kill(caller.app.pid, signal.SIGCONT)
    assert caller.ended().result == -errno.EINTR, "signal(7): so it is without us"


@pytest.mark.parametrize("error", [NotCarried("no room"), OSError(errno.ENOMEM, "mmap")])
def test_a_call_without_a_way_round_goes_on_all_the_same(
    caller: Caller, move: Mover, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It waits for its whole time again."""

    def fail(*_: object) -> None:
        raise error

    caller.begin("sigtimedwait", 300)
    moving = move(caller.app, live=False)
    moving.round()
    moving.outgoing.freeze()
    moving.outgoing.extract()
    monkeypatch.setattr("livemig.waiting.borrow", fail)
    moving.give_up()
    found = caller.ended()
    assert found.result == -errno.EAGAIN
    assert found.took >= 0.3


# Calls that wait for something else


def say_something(caller: Caller) -> None:
    caller.app.tell("")


def wake(caller: Caller) -> None:
    os.kill(caller.app.pid, signal.SIGUSR2)


def interrupt(caller: Caller) -> None:
    os.kill(caller.app.pid, signal.SIGUSR1)


FOREVER: dict[str, tuple[Callable[[Caller], None], int]] = {
    "read": (say_something, 1),
    "poll-forever": (say_something, 1),
    "poll": (say_something, 1),
    "ppoll": (say_something, 1),
    "select": (say_something, 1),
    "sigwaitinfo": (wake, signal.SIGUSR2),
    "sigtimedwait": (wake, signal.SIGUSR2),
    "futex-forever": (interrupt, -errno.EINTR),
    "pause": (interrupt, -errno.EINTR),
    "sigsuspend": (interrupt, -errno.EINTR),
    "semop": (interrupt, -errno.EINTR),
}


@pytest.mark.parametrize("name", FOREVER)
def test_a_call_goes_on_until_something_happens(caller: Caller, move: Mover, name: str) -> None:
    happen, result = FOREVER[name]
    caller.begin(name, LONG)
    there_and_back(caller, move)
    caller.stay(0.05)
    happen(caller)
    found = caller.ended()
    assert found.result == result
    assert found.took < LONG / 1000 - 1
    assert found.signals == (happen is interrupt)


# Signals that are caught: what a call returns after its handler, by SA_RESTART or without (EINTR)

CAUGHT = {
    "nanosleep-rest": None,
    "nanosleep-same": None,
    "poll": None,
    "ppoll": None,
    "futex": None,
    "futex-until": None,
    "futex-forever": "restart",
    "sigtimedwait": None,
    "semop": None,
    "pause": None,
    "sigsuspend": None,
    "read": "restart",
}


@pytest.mark.parametrize("where", ["source", "target"])
@pytest.mark.parametrize("how", ["plain", "restart"])
@pytest.mark.parametrize("name", CAUGHT)
def test_a_signal_that_comes_meanwhile_interrupts(
    caller: Caller, move: Mover, name: str, how: str, where: str
) -> None:
    caller.handle(how)
    caller.begin(name, LONG)
    moving = move(caller.app)
    moving.freeze()
    os.kill(caller.app.pid, signal.SIGUSR1)
    if where == "target":
        caller.app = moving.switch()
    else:
        moving.outgoing.extract()
        moving.give_up()
    if CAUGHT[name] == how:
        caller.stay(0.05)
        if name == "read":
            say_something(caller)
            assert caller.ended().result == 1
        return
    found = caller.ended()
    assert (found.result, found.signals) == (-errno.EINTR, 1)
    assert found.took < LONG / 1000 - 1, "it was interrupted, and did not run out"
    if name == "nanosleep-rest":
        assert found.rest + found.took == pytest.approx(LONG / 1000, abs=pace.limit(0.1))


# What is not carried, but must not notice that it was stopped

STOPPED = {
    "wait": None,
    "waitid": None,
    "accept": interrupt,
    "receive": interrupt,
    "epoll": None,
    "epoll-mask": None,
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_stop_is_not_noticed(caller: Caller, scope: ExitStack, name: str) -> None:
    borrower = Borrower(caller.app)
    scope.callback(borrower.close)
    caller.begin(name)
    caller.stay(LATE)
    for _ in range(3):
        caller.stay(0.02)
        with borrower.stopped():
            borrower.work()
            end_on_time(borrower.tracee, borrower.memory, borrower.gadgets)
    caller.stay(0.02)
    if happen := STOPPED[name]:
        happen(caller)
        assert caller.ended().result == -errno.EINTR
    else:
        found = caller.ended()
        assert found.result >= 0
        assert LENGTH / 1000 - 0.01 <= found.took < LENGTH / 1000 + SLACK
    assert ways_round(caller) == []


@pytest.mark.parametrize(
    ("name", "live"),
    [("nanosleep", True), ("nanosleep", False), ("clock", False), ("poll", False), ("futex", True)],
)
def test_a_stop_by_somebody_else_before_is_not_noticed(
    caller: Caller, move: Mover, name: str, live: bool
) -> None:
    """From then on the thread shows restart_syscall, and the first stop of ours tells nothing."""
    caller.begin(name)
    caller.stay(LATE)
    os.kill(caller.app.pid, signal.SIGSTOP)
    await_state(caller.app, "T")
    os.kill(caller.app.pid, signal.SIGCONT)
    caller.app.cgroup.freezer.freeze()
    caller.app.cgroup.freezer.thaw()
    caller.stay(0.05)
    caller.app = move(caller.app, live=live).run(rounds=int(live))
    assert caller.waits()
    found = caller.ended()
    assert found.result == TIMED[name]
    assert LENGTH / 1000 <= found.took < LENGTH / 1000 + SLACK
