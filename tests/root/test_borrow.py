"""A borrowed thread is given back exactly as it was, whatever it was doing."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from livemig.errors import InternalError, NotCarried, ProcessGone
from livemig.infect import find_gadgets, infected
from livemig.stub import CallFailed, Stub, blob, hold_path
from livemig.stub.runner import StubCrashed
from livemig.system import procfs, ptrace
from livemig.system.memory import Memory
from livemig.tracing import StillRuns, Stop, Tracee, wait_stop
from tests import pace
from tests.root.apps import LIMIT, NR_NANOSLEEP, App, cgroup_root
from tests.root.borrower import NR_CLOSE, NR_GETPID, Borrower
from tests.root.conftest import Start
from tests.root.forked import Forked, Say
from tests.root.mapper import ARENA, NR_MPROTECT, PAGE, POKE, Mapper, make_file

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

NR_PAUSE = 34
TIMES = 5
NAP = pace.limit(0.4)  # seconds, in which a thread is borrowed TIMES times
SLACK = pace.limit(0.15)  # seconds that a busy machine may take to wake somebody


def read(app: App) -> None:
    app.settle()


def spin(app: App) -> None:
    assert app.ask("spin") == "spinning"


def nap(app: App) -> None:
    assert app.ask(f"sleep {NAP * 1000:.0f}") == "sleeping"
    app.settle(NR_NANOSLEEP)


def over(app: App) -> None:
    assert app.ask("over") == "there"
    app.settle()


def after_read(app: App) -> None:
    assert app.ask("check") == "ok", app.errors()


def after_spin(app: App) -> None:
    os.kill(app.pid, signal.SIGUSR1)
    assert app.answer() == "spun"
    assert app.ask("check") == "ok", app.errors()


def after_nap(app: App) -> None:
    assert app.answer().startswith("slept 0 ")
    assert app.ask("check") == "ok", app.errors()


def after_over(app: App) -> None:
    assert app.ask("back") == "here"
    assert app.ask("check") == "ok", app.errors()


Step = Callable[[App], None]
DOING: dict[str, tuple[Step, Step]] = {
    "reading": (read, after_read),
    "spinning": (spin, after_spin),
    "sleeping": (nap, after_nap),
    "on-alternate-stack": (over, after_over),
}


@pytest.fixture
def borrower(carried: App, scope: ExitStack) -> Borrower:
    found = Borrower(carried)
    scope.callback(found.close)
    return found


@pytest.mark.parametrize("doing", DOING)
def test_nothing_of_it_is_changed(carried: App, borrower: Borrower, doing: str) -> None:
    begin, end = DOING[doing]
    begin(carried)
    for _ in range(TIMES):
        with borrower.stopped():
            before = borrower.look()
            for _ in range(2):
                borrower.work()
                assert borrower.look() == before
    end(carried)


def first_stack(app: App) -> tuple[int, int]:
    return next((a.start, a.end) for a in procfs.read_areas(app.pid) if a.name == "[stack]")


def test_the_first_stack_grows_once_for_a_thread_on_another(
    carried: App, borrower: Borrower
) -> None:
    """And once more where the program has used what it grew by."""
    over(carried)
    sizes = []
    for turn in range(TIMES):
        with borrower.stopped():
            borrower.work()
        sizes.append(first_stack(carried)[0])
        if turn == TIMES // 2:
            borrower.memory.write(sizes[-1] + 100, b"used")
    assert len(set(sizes)) == 2, "once at first, and once after it was used"
    assert borrower.memory.read(sizes[0] + 100, 4) == b"used"
    after_over(carried)


def test_a_plain_cat_goes_on(scope: ExitStack, start: Start) -> None:
    app = start("cat")
    app.settle()
    borrower = Borrower(app)
    scope.callback(borrower.close)
    for turn in range(TIMES):
        with borrower.stopped():
            borrower.work()
        assert app.ask(f"line {turn}") == f"line {turn}"
    assert app.end() == 0


@pytest.mark.parametrize("resting", [False, True], ids=["detached-between", "one-attachment"])
def test_a_sleep_goes_on_with_the_time_that_is_left(
    carried: App, borrower: Borrower, resting: bool
) -> None:
    nap(carried)
    if resting:
        with borrower.stopped():
            for _ in range(TIMES):
                borrower.work()
    else:
        for _ in range(TIMES):
            with borrower.stopped():
                borrower.work()
            carried.settle(219)  # restart_syscall
    word, result, length = carried.answer().split()
    assert (word, result) == ("slept", "0")
    assert NAP <= int(length) / 1e9 < NAP + SLACK


def test_a_stopped_process_stays_stopped(carried: App, borrower: Borrower) -> None:
    carried.settle()
    os.kill(carried.pid, signal.SIGSTOP)
    await_state(carried, "T")
    with borrower.stopped():
        borrower.work()
    await_state(carried, "T")
    carried.tell("check")
    assert carried.state() == "T"
    os.kill(carried.pid, signal.SIGCONT)
    assert carried.answer() == "ok", carried.errors()


def await_state(app: App, state: str) -> None:
    deadline = time.monotonic() + 5
    while app.state() != state:
        assert time.monotonic() < deadline, f"state {app.state()}, not {state}"
        time.sleep(0.001)


# Signals that come while the thread is away

LENGTH = 500_000_000  # nanoseconds


def begin_nap(app: App, stub: Stub, seconds: int = 0) -> None:
    """Begin a stub run that lasts a while, so that something can happen meanwhile."""
    table = stub.table()
    length = table.place(struct.pack("=qq", seconds, LENGTH))
    table.call("nanosleep", NR_NANOSLEEP, length, 0)
    table.call("getpid", NR_GETPID)
    stub.start(table)
    app.settle(NR_NANOSLEEP)


def test_signals_that_come_meanwhile_arrive_afterwards_once(
    carried: App, borrower: Borrower
) -> None:
    carried.settle()
    with borrower.stopped():
        known = len(borrower.look().pending)
        with borrower.stub() as stub:
            begin_nap(carried, stub)
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, *[signal.SIGRTMIN] * 4):
                os.kill(carried.pid, number)
            stub.finish()
        assert len(borrower.look().pending) == known + 7, "none may run before it is back"
    assert carried.ask("seen") == "1 1 1 4"
    assert carried.ask("check") == "ok", carried.errors()


def test_a_stop_that_comes_meanwhile_comes_into_force_afterwards(
    carried: App, borrower: Borrower
) -> None:
    carried.settle()
    with borrower.stopped(), borrower.stub() as stub:
        begin_nap(carried, stub)
        os.kill(carried.pid, signal.SIGSTOP)
        stub.finish()
    await_state(carried, "T")
    os.kill(carried.pid, signal.SIGCONT)
    assert carried.ask("check") == "ok", carried.errors()


def test_signals_that_the_engine_uses_itself_are_left_to_the_application(
    carried: App, borrower: Borrower
) -> None:
    """It has SIGURG blocked and pending, and catches SIGWINCH; the others it ignores."""
    carried.settle()
    with borrower.stopped(), borrower.stub() as stub:
        begin_nap(carried, stub)
        for number in (signal.SIGWINCH, signal.SIGCHLD, signal.SIGCONT):
            os.kill(carried.pid, number)
        stub.finish()
    assert carried.ask("take") == "took 7"
    assert carried.ask("check") == "ok", carried.errors()


def test_a_process_that_uses_all_of_these_signals_is_refused(
    carried: App, borrower: Borrower
) -> None:
    carried.settle()
    mask = sum(1 << (number - 1) for number in (signal.SIGURG, signal.SIGCHLD, signal.SIGCONT))
    with borrower.stopped():
        before = borrower.look()
        usual = ptrace.get_sigmask(carried.pid)
        ptrace.set_sigmask(carried.pid, usual | mask)
        with pytest.raises(NotCarried, match="SIGURG"), borrower.stub():
            pass
        ptrace.set_sigmask(carried.pid, usual)
        assert borrower.look() == before


def test_death_meanwhile_is_told(carried: App, borrower: Borrower) -> None:
    carried.settle()

    def work() -> None:
        with borrower.stopped(), borrower.stub() as stub:
            begin_nap(carried, stub)
            os.kill(carried.pid, signal.SIGKILL)
            stub.finish()

    with pytest.raises(ProcessGone, match=rf"{carried.pid} was killed by signal 9"):
        work()


@pytest.mark.parametrize("place", ["before", "loan", "stub"])
def test_death_at_any_place_is_told(carried: App, borrower: Borrower, place: str) -> None:
    """Not by a hang: memory that is gone takes no bytes, and says nothing."""
    carried.settle()

    def kill_at(here: str) -> None:
        if here == place:
            os.kill(carried.pid, signal.SIGKILL)
            await_state(carried, "Z")

    def work() -> None:
        with borrower.stopped():
            kill_at("before")
            with borrower.loan() as loan:
                kill_at("loan")
                with infected(loan) as stub:
                    kill_at("stub")
                    stub.run(stub.table())

    started = time.monotonic()
    with pytest.raises(ProcessGone, match=f"process {carried.pid}"):
        work()
    assert time.monotonic() - started < 5


def test_the_parent_learns_of_a_death_while_the_tracer_lives(
    carried: App, borrower: Borrower
) -> None:
    carried.settle()

    def work(say: Say) -> None:
        with borrower.stopped():
            os.kill(carried.pid, signal.SIGKILL)
            await_state(carried, "Z")
        say()
        signal.pause()

    with Forked(work) as child:
        assert child.hear()
        assert carried.wait(5) == -signal.SIGKILL


# Failures


def test_a_call_of_a_table_that_fails_is_named(carried: App, borrower: Borrower) -> None:
    carried.settle()
    with borrower.stopped():
        before = borrower.look()
        with borrower.stub() as stub:
            table = stub.table()
            table.call("getpid", NR_GETPID)
            table.call("closing what may be closed", NR_CLOSE, 999, may_fail=True)
            table.call("closing 999", NR_CLOSE, 999)
            last = table.place(bytes(16))
            table.call("getpid", NR_GETPID, last)
            with pytest.raises(CallFailed, match=r"closing 999: .*EBADF"):
                stub.run(table)
            again = stub.table()
            again.call("getpid", NR_GETPID)
            assert stub.run(again) == [1]
        with borrower.loan() as loan, pytest.raises(OSError, match=rf"close in .* {carried.pid}"):
            loan.call("close", NR_CLOSE, 999)
        assert borrower.look() == before
    after_read(carried)


def test_what_a_thread_is_made_to_do_may_take_longer_than_a_stop(
    carried: App, borrower: Borrower
) -> None:
    carried.settle()
    with borrower.stopped(), borrower.stub() as stub:
        begin_nap(carried, stub, 1)
        borrower.tracee.timeout, usual = 0.5, borrower.tracee.timeout
        stub.finish()
        borrower.tracee.timeout = usual
    after_read(carried)


def test_a_call_of_a_table_that_does_not_end_is_named(carried: App, borrower: Borrower) -> None:
    def work() -> None:
        with borrower.stub() as stub:
            stub.limit = 0.2
            begin_nap(carried, stub, 1000)
            stub.finish()

    carried.settle()
    with borrower.stopped():
        before = borrower.look()
        with pytest.raises(InternalError, match=rf"{carried.pid}: nanosleep did not end within"):
            work()
        assert borrower.look() == before
    after_read(carried)


# What goes wrong in a stub whose code is this.
CRASHES = {
    "SIGSEGV": b"\xf4",  # hlt
    "SIGBUS": b"\x48\xbc\x00\x00\x00\x00\x00\x00\x00\x80\x50",  # mov $1 << 63, %rsp; push %rax
    "SIGILL": b"\x0f\x0b",  # ud2
    "SIGFPE": b"\x31\xc9\xf7\xf1",  # xor %ecx, %ecx; div %ecx
    "SIGTRAP": b"\xcc",  # int3
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_stub_that_crashes_is_told_at_once(carried: App, borrower: Borrower, name: str) -> None:
    emulated = "QEMU TCG" in Path("/proc/cpuinfo").read_text()  # it makes no stack faults
    told = "SIGSEGV" if emulated and name == "SIGBUS" else name

    def work() -> None:
        with borrower.stub() as stub:
            stub.memory.write(stub.base + blob.code()[1], CRASHES[name])
            stub.run(stub.table())

    carried.settle()
    with borrower.stopped():
        before = borrower.look()
        with pytest.raises(StubCrashed, match=rf"in thread {carried.pid} at 0x\w+ \({told}\)"):
            work()
        assert borrower.look() == before


def test_a_failure_of_ours_gives_the_thread_back(carried: App, borrower: Borrower) -> None:
    carried.settle()
    with borrower.stopped():
        before = borrower.look()
        with pytest.raises(ZeroDivisionError), borrower.stub():
            _ = 1 // 0
        assert borrower.look() == before
    after_read(carried)


@pytest.mark.parametrize("prot", [5, 7], ids=["executable", "writable-too"])
def test_code_that_was_made_is_not_borrowed(
    start: Start, programs: Path, tmp_path: Path, scope: ExitStack, prot: int
) -> None:
    """It lies before all libraries, and is something else a moment later."""
    mapper = Mapper(start(programs / "mapper", make_file(tmp_path / "file")), 0)
    mapper.begin()
    mapper.command(POKE, 0xC3050F, ARENA, 8)
    mapper.command(POKE, 0x050F0000000FB8, ARENA + 8, 8)
    mapper.call(NR_MPROTECT, ARENA, PAGE, prot)
    borrower = Borrower(mapper.app)
    scope.callback(borrower.close)
    for place in (borrower.gadgets.call, borrower.gadgets.restorer):
        assert not ARENA <= place < ARENA + PAGE


@pytest.mark.parametrize("place", [0, PAGE, 1 << 46])
def test_instructions_that_have_gone_are_found_again(
    carried: App, borrower: Borrower, place: int
) -> None:
    carried.settle()
    found = borrower.gadgets
    for gadgets in (replace(found, call=place), replace(found, restorer=place)):
        borrower.gadgets = gadgets
        with borrower.stopped():
            before = borrower.look()
            borrower.work()
            assert borrower.look() == before
    after_read(carried)


def test_a_crash_of_the_borrowed_thread_is_told_and_undone(
    carried: App, borrower: Borrower
) -> None:
    carried.settle()
    with borrower.stopped():
        before = borrower.look()
        with borrower.loan() as loan:
            good = loan._gadgets
            loan._gadgets = replace(good, call=PAGE)
            with pytest.raises(InternalError, match=f"thread {carried.pid} crashed at 0x1000"):
                loan.call("getpid", NR_GETPID)
            loan._gadgets = good
            assert loan.call("getpid", NR_GETPID) == 1
        assert borrower.look() == before
    after_read(carried)


def test_a_process_without_a_c_library_is_refused(start: Start) -> None:
    app = start(hold_path())
    app.settle(NR_PAUSE)
    memory = Memory(app.pid)
    try:
        with pytest.raises(NotCarried, match=f"process {app.pid}"):
            find_gadgets(app.pid, memory)
    finally:
        memory.close()


def test_a_process_that_is_gone_is_told(carried: App, borrower: Borrower) -> None:
    carried.settle()
    assert carried.end() == 0
    with pytest.raises(ProcessGone, match=f"{carried.pid}"):
        borrower.tracee.attach()


def test_a_thread_that_stops_late_is_let_go(
    start: Start, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The freezer of cgroup v1 keeps it from stopping, until it is waited for once more."""
    if cgroup_root(1) is None:
        pytest.skip("no freezer of cgroup v1 is mounted")
    app = start(programs / "refused", "nothing", tmp_path, version=1)
    assert app.answer() == "waiting"
    app.settle()
    app.cgroup.freezer.freeze()
    tracee = Tracee(app.pid, timeout=0.1)
    tracee.attach()
    with pytest.raises(StillRuns):
        tracee.stop()

    def thaw_and_wait(tid: int, _: float) -> Stop:
        app.cgroup.freezer.thaw()
        return wait_stop(tid, LIMIT)

    monkeypatch.setattr("livemig.tracing.wait_stop", thaw_and_wait)
    tracee.detach()
    app.cgroup.freezer.thaw()
    assert procfs.read_status(app.pid)["TracerPid"] == "0"
    app.send(b"12")
    assert app.answer() == "ready"
