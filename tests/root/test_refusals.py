"""What cannot be carried is named, with its process, before it is touched or when it comes late."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from livemig.errors import NotCarried
from livemig.extract import read_descriptors, read_layout, refuse_process
from livemig.extract.files import Descriptions
from livemig.system import procfs
from livemig.system.memory import Memory
from tests.root.apps import App
from tests.root.borrower import Borrower
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover
from tests.root.processor import why_not
from tests.root.uprobes import probed

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
DELETED, MAPPED = "a file that was deleted while open", "a mapped file that was deleted"
OBJECTS = {
    "shared": "shared memory at 0x",
    "shared-file": r"shared memory at 0x.*/file\)",
    "shared-readable": r"shared memory at 0x.*/file\)",
    "shared-segment": "shared memory at 0x.*SYSV",
    "memfd": f"descriptor 3 is {DELETED} .*memfd:thing",
    "mapped-memfd": f"{MAPPED} at 0x.*memfd:thing",
    "deleted-file": f"descriptor 3 is {DELETED} .*/gone",
    "mapped-deleted-file": f"{MAPPED} at 0x.*/gone",
    "temporary-file": f"descriptor 3 is {DELETED}",
    "mapped-device": "a mapped device at 0x.*/dev/zero",
    "huge": "MAP_HUGETLB",
    "low": "memory below vm.mmap_min_addr at 0x0-",
    "keyed": "memory with protection key 1 at 0x",
    "keyed-code": "memory with protection key 2 at 0x",
    "thread": r"\(refused\) has 2 threads",
    "socket-pair": r"descriptor 3 is a socket \(socket:",
    "listening": "descriptor 3 is a socket",
    "epoll": "descriptor 3 is an object of the kind eventpoll",
    "event": "descriptor 3 is an object of the kind eventfd",
    "signals": "descriptor 3 is an object of the kind signalfd",
    "timer-descriptor": "descriptor 3 is an object of the kind timerfd",
    "watched": "descriptor 3 is an object of the kind inotify",
    "pipe": r"descriptor 3 is a pipe that is none of .* \(pipe:",
    "named-pipe": "descriptor 3 is a pipe that is none of .*/fifo",
    "terminal": "descriptor 3 is a device .*/dev/(pts/)?ptmx",
    "kernel-file": "descriptor 3 is a file of the kernel .*/proc/",
    "directory": "descriptor 3 is a directory that is being read",
    "flocked": "descriptor 3 is a file with locks on it .*/file",
    "record-locked": "descriptor 3 is a file with locks on it .*/file",
    "leased": "descriptor 3 is a file with locks on it .*/file",
    "signalling": r"descriptor 3 is a file that sends signals \(O_ASYNC\)",
    "zombie": r"has a child that has ended, .*: process \d+ \(refused\)",
    "cpu-limit": r"has a limit of its CPU time \(RLIMIT_CPU\)",
    "owned": r"descriptor 3 is a file that sends signals \(F_SETOWN, F_NOTIFY\)",
    "owned-by-group": "descriptor 3 is a file that sends signals",
    "other-signal": "descriptor 3 is a file that sends signals",
    "notifying": "descriptor 3 is a file that sends signals",
    "changed-root": "has changed its root directory",
    "user-namespace": r"has made a user namespace of its own \(unshare\(2\)\)",
    "pid-namespace": "has made a pid namespace of its own",
    "time-namespace": "has made a time namespace of its own",
    "removed-directory": "is in a directory that was removed",
    "namespace-file": r"descriptor 3 is a file that is on no mount of its container \(net:",
    "lost-mount": "descriptor 3 is a file that is on no mount of its container .*/file",
}
# What is seen only when the thread is to be borrowed.
LENT = {
    "io-ports": r"may use I/O ports \(ioperm\(2\)\)",
    "narrow": r"runs 32-bit code \(segment 0x23\)",
    "dispatch": r"handler of its own \(PR_SET_SYSCALL_USER_DISPATCH\)",
    "dispatch-blocked": r"handler of its own \(PR_SET_SYSCALL_USER_DISPATCH\)",
}


@pytest.fixture(autouse=True)
def _huge_page(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reserve a huge page for the test that needs one, and give it back."""
    if "huge" not in request.node.name:
        yield
        return
    before = HUGE_PAGES.read_text()
    HUGE_PAGES.write_text(str(int(before) + 1))
    try:
        yield
    finally:
        HUGE_PAGES.write_text(before)


def waiting(start: Start, programs: Path, name: str, directory: Path) -> App:
    app = start(programs / "refused", name, directory)
    assert app.answer() == "waiting"
    return app


WAITS = {"narrow": 3}
"""By name: the number of the call in which the program waits then, where it is not read(2)'s."""


def make(app: App, name: str) -> None:
    app.send(b"1")
    if app.answer() == "lacks":
        pytest.skip(why_not(name))
    app.settle(WAITS.get(name, 0))


def refuse(app: App) -> None:
    """Look at a process as a move does before it begins."""
    refuse_process(app.pid)
    read_layout(app.pid, 1)
    read_descriptors(app.pid, Descriptions(app.streams()))


@pytest.mark.parametrize("name", OBJECTS)
def test_it_is_refused_by_name(start: Start, programs: Path, tmp_path: Path, name: str) -> None:
    app = waiting(start, programs, name, tmp_path)
    refuse(app)
    make(app, name)
    with pytest.raises(NotCarried, match=rf"^process {app.pid}\b.*{OBJECTS[name]}") as caught:
        refuse(app)
    assert caught.value.hint or name == "changed-root"


@pytest.mark.parametrize("name", OBJECTS)
def test_it_is_refused_when_it_comes_late(
    start: Start, programs: Path, tmp_path: Path, move: Mover, name: str
) -> None:
    app = waiting(start, programs, name, tmp_path)
    app.settle()
    moving = move(app)
    moving.round()
    make(app, name)
    with pytest.raises(NotCarried, match=rf"^process {app.pid}\b.*{OBJECTS[name]}"):
        go_on(moving)
    moving.give_up()
    app.send(b"2")
    assert app.wait() == 0, "it runs on"


def go_on(moving: Move) -> None:
    moving.round()
    moving.freeze()
    moving.state()


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("name", LENT)
def test_a_thread_is_refused_before_it_is_borrowed(
    start: Start, programs: Path, tmp_path: Path, move: Mover, name: str, late: bool
) -> None:
    app = waiting(start, programs, name, tmp_path)
    moving = move(app) if late else None
    make(app, name)
    with pytest.raises(NotCarried, match=rf"^process {app.pid}\b.*{LENT[name]}"):
        go_on(moving or move(app))
    if moving:
        moving.give_up()
    app.send(b"2")
    assert app.wait() == 0, "it runs on"


def test_a_second_process_is_refused(
    start: Start, programs: Path, tmp_path: Path, move: Mover
) -> None:
    app = waiting(start, programs, "child", tmp_path)
    moving = move(app)
    moving.round()
    make(app, "child")
    (child,) = set(app.cgroup.freezer.processes()) - {app.pid}
    with pytest.raises(NotCarried, match=rf"process {child} \(refused\) came into"):
        go_on(moving)
    moving.give_up()
    app.send(b"2")
    assert app.wait() == 0


@pytest.fixture
def landing(start: Start, programs: Path, tmp_path: Path) -> tuple[App, int]:
    """Start a program, and tell where SIGUSR1 leads it."""
    app = waiting(start, programs, "landing", tmp_path)
    make(app, "landing")
    return app, int.from_bytes((tmp_path / "place").read_bytes(), "little")


@contextmanager
def breakpoint_at(pid: int, address: int) -> Iterator[None]:
    """Set a breakpoint as a debugger does."""
    memory = Memory(pid)
    try:
        before = memory.read(address, 1)
        memory.write(address, b"\xcc")
        yield
        memory.write(address, before)
    finally:
        memory.close()


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("setter", [breakpoint_at, probed], ids=["debugger", "uprobe"])
def test_a_breakpoint_of_another_is_refused(
    landing: tuple[App, int],
    move: Mover,
    setter: Callable[[int, int], AbstractContextManager[None]],
    late: bool,
) -> None:
    """Where it was taken away, the page is the process's own, but no other than its file's."""
    app, place = landing
    moving = move(app) if late else None
    with (
        setter(app.pid, place),
        pytest.raises(NotCarried, match=rf"^process {app.pid}: a breakpoint at {place:#x} \(/"),
    ):
        go_on(moving or move(app))
    if moving:
        moving.give_up()
    app = move(app).run()
    app.send(b"2")
    assert app.wait() == 0


def test_a_program_that_was_probed_is_refused(landing: tuple[App, int]) -> None:
    app, place = landing
    refuse(app)
    with probed(app.pid, place):
        os.kill(app.pid, signal.SIGUSR1)
        app.await_area("[uprobes]")
    with pytest.raises(NotCarried, match=rf"^process {app.pid}: .* uprobes .*\[uprobes"):
        refuse(app)
    app.send(b"2")
    assert app.wait() == 0


STOPPED = "was stopped by a signal"


def goes_on_when_told(app: App) -> None:
    app.await_state("T")
    app.send(b"12")
    os.kill(app.pid, signal.SIGCONT)
    assert app.answer() == "ready"
    assert app.wait() == 0, "it runs on"


def test_a_stopped_process_is_refused(start: Start, programs: Path, tmp_path: Path) -> None:
    app = waiting(start, programs, "nothing", tmp_path)
    os.kill(app.pid, signal.SIGSTOP)
    app.await_state("T")
    with pytest.raises(NotCarried, match=f"process {app.pid} {STOPPED}"):
        refuse(app)
    os.kill(app.pid, signal.SIGCONT)
    app.settle()
    refuse(app)


@pytest.mark.parametrize("live", [True, False], ids=["live", "stop-and-copy"])
def test_a_process_that_is_stopped_late_is_refused(
    start: Start, programs: Path, tmp_path: Path, move: Mover, version: int, live: bool
) -> None:
    """With either freezer: that of cgroup v1 hides the state. It stays stopped where it is."""
    app = start(programs / "refused", "nothing", tmp_path, version=version)
    assert app.answer() == "waiting"
    moving = move(app, live=live)
    if live:
        moving.round()
    os.kill(app.pid, signal.SIGSTOP)
    app.await_state("T")
    with pytest.raises(NotCarried, match=f"process {app.pid} {STOPPED}"):
        go_on(moving)
    moving.give_up()
    goes_on_when_told(app)


def test_a_process_that_is_stopped_when_it_is_frozen_is_refused(
    start: Start,
    programs: Path,
    tmp_path: Path,
    move: Mover,
    version: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its signal waits for the thaw, which finds it traced."""
    app = start(programs / "refused", "nothing", tmp_path, version=version)
    assert app.answer() == "waiting"
    app.settle()
    moving = move(app)
    freeze = moving.outgoing.freezer.freeze

    def freeze_and_stop() -> None:
        freeze()
        os.kill(app.pid, signal.SIGSTOP)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(moving.outgoing.freezer, "freeze", freeze_and_stop)
        with pytest.raises(NotCarried, match=f"process {app.pid} {STOPPED}"):
            go_on(moving)
    moving.give_up()
    goes_on_when_told(app)


def test_masked_addresses_are_refused(carried: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel tells of none, as before Linux 6.4, there is none."""
    status = procfs.read_status(carried.pid)
    for mask, told in ((None, False), ("0xffffffffffffffff", False), ("0x81ffffffffffffff", True)):
        shown = {key: value for key, value in status.items() if key != "untag_mask"}
        shown |= {"untag_mask": mask} if mask else {}
        monkeypatch.setattr(procfs, "read_status", lambda _, shown=shown: shown)
        with pytest.raises(NotCarried, match="TAGGED_ADDR") if told else nullcontext():
            refuse_process(carried.pid)


def test_a_traced_process_is_refused(carried: App) -> None:
    borrower = Borrower(carried)
    try:
        with borrower.stopped(), pytest.raises(NotCarried, match=f"{carried.pid} is traced by"):
            refuse(carried)
    finally:
        borrower.close()


def test_the_one_with_all_that_is_carried_is_not_refused(carried: App) -> None:
    refuse(carried)


def test_every_object_that_the_program_can_make_is_tried() -> None:
    source = (Path(__file__).parents[1] / "workloads/refused.c").read_text()
    names = set(re.findall(r'^\t\{ "([a-z-]+)", \w+ \},$', source, re.MULTILINE))
    assert names == {*OBJECTS, *LENT, "child", "landing", "nothing"}
