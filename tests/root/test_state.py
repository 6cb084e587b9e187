"""Whatever a process has set is so after a move, after two, and after one that was given up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from livemig.errors import NotCarried, StateMismatch
from livemig.extract import properties, read_layout
from livemig.extract.scheduling import read_scheduling
from livemig.extract.timers import list_timers
from livemig.model import Image, Kind
from livemig.system import procfs, sched
from livemig.system.calls import Call
from livemig.system.device import Flag
from livemig.system.procfs import Area
from tests.programs import WORKLOADS
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover
from tests.root.processor import why_not
from tests.root.test_moves import status

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

SECCOMP_FILTER_FLAG_LOG = 2
MAP_PRIVATE = 2
REFUSED = {
    "asking-filter": "SECCOMP_RET_USER_NOTIF",
    "tiles-in-use": "AMX's tiles",
    "local-segment": r"segments of its own \(modify_ldt",
    "thread-area": r"segments of its own \(set_thread_area",
    "thread-keyring": "has a thread keyring",
    "process-keyring": "has a process keyring",
    "memory-policy": "has a NUMA memory policy",
    "key": r"memory protection keys \(1\)",
}
THINGS = [
    name
    for path in sorted(WORKLOADS.glob("state_*.c"))
    for name in re.findall(r'^\t\{ "([a-z-]+)",', path.read_text(), re.MULTILINE)
    if name not in (*REFUSED, "restartable-sequence", "vectors")
]


KHUGEPAGED = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none")


@pytest.fixture(scope="module", autouse=True)
def memory_stays_as_it_is() -> Iterator[None]:
    """Have the kernel make no huge page, meanwhile, of one in which little is used."""
    kept = KHUGEPAGED.read_text() if KHUGEPAGED.exists() else ""
    if kept:
        KHUGEPAGED.write_text("0")
    yield
    if kept:
        KHUGEPAGED.write_text(kept)


def begin(start: Start, programs: Path, name: str) -> App:
    app = start(programs / "state", name)
    if app.answer() == "lacks":
        pytest.skip(why_not(name))
    assert app.ask("check") == "ok"
    app.settle()
    return app


def outside(app: App) -> dict[str, object]:
    """Return what shows from outside, too."""
    return {
        **status(app),
        "scheduling": read_scheduling(app.pid),
        "autogroup": sched.autogroup(app.pid),
        "timers": list_timers(app.pid),
        **{name: Path(f"/proc/{app.pid}/{name}").read_text() for name in FILES},
    }


FILES = ("oom_score_adj", "coredump_filter", "timerslack_ns", "limits", "personality")


def resident(app: App) -> tuple[int, int]:
    """Return its memory in KiB: all that is resident, and what is its own of that."""
    # /proc/PID/status counts by CPU, and may be off by hundreds.
    text = Path(f"/proc/{app.pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE))
    return int(found["Rss"]), int(found["Anonymous"])


def assert_resident(app: App, before: tuple[int, int]) -> None:
    """Assert that it takes as much memory as before, within 5 %."""
    for now, then in zip(resident(app), before, strict=True):
        assert abs(now - then) <= max(0.05 * then, SLACK_KIB), f"{now} KiB, not {then}"


SLACK_KIB = 64


@pytest.mark.parametrize("name", THINGS)
def test_it_is_as_it_was(start: Start, programs: Path, move: Mover, name: str) -> None:
    app = begin(start, programs, name)
    before, size = outside(app), resident(app)
    for live in (True, False):
        app = move(app, live=live).run(rounds=2 if live else 0)
        assert app.ask("check") == "ok"
        app.settle()
        assert outside(app) == before
        assert_resident(app, size)
    assert app.ask("finish") == "ok"


@pytest.mark.parametrize("name", THINGS)
def test_it_is_as_it_was_when_the_move_is_given_up(
    start: Start, programs: Path, move: Mover, name: str
) -> None:
    app = begin(start, programs, name)
    before = outside(app)
    moving = move(app)
    moving.freeze()
    moving.state()
    moving.give_up()
    assert app.ask("check") == "ok"
    app.settle()
    assert outside(app) == before
    assert app.ask("finish") == "ok"


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "not-watched"])
@pytest.mark.parametrize("name", [name for name in THINGS if name.startswith("late-")])
def test_what_changes_between_rounds_is_seen(
    start: Start,
    programs: Path,
    move: Mover,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    watched: bool,
) -> None:
    """Whether or not the kernel can count the system calls that change it."""
    if not watched:
        monkeypatch.setattr("livemig.extract.properties.CallCounter", no_counter)
    app = begin(start, programs, name)
    moving = move(app)
    moving.round()
    moving.round()
    assert app.ask("finish") == "ok"
    assert app.ask("check") == "ok"
    app = moving.run()
    assert app.ask("check") == "ok"


@pytest.mark.parametrize("name", ["late-part", "late-join"])
def test_what_changes_while_areas_are_read_is_seen(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Their list is read first, what they are like afterwards."""
    app = begin(start, programs, name)
    moving = move(app)
    read = procfs.read_areas
    answers: list[str] = []

    def read_before_the_change(pid: int) -> list[Area]:
        areas = read(pid)
        if pid == app.pid and not answers:
            answers.append(app.ask("finish"))
        return areas

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(procfs, "read_areas", read_before_the_change)
        moving.round()
    assert answers == ["ok"]
    app = moving.run()
    assert app.ask("check") == "ok"


def test_a_call_that_the_kernel_lacks_is_never_made(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are counted all the same: Linux 6.1 has no mseal(2)."""
    app = begin(start, programs, "late-advice")
    if not move(app).outgoing.properties.watching:
        pytest.skip("this kernel does not count system calls")
    lacking = (*properties._MAKING, Call("exit_no_such_call", lacking=True))
    monkeypatch.setattr(properties, "_MAKING", lacking)
    moving = move(app)
    assert moving.outgoing.properties.watching
    moving.run(rounds=3)
    assert moving.outgoing.properties.reads == 1


def no_counter(*_: object) -> None:
    raise OSError(2, "No such file or directory")


def test_properties_are_not_read_again_where_nothing_changed(
    start: Start, programs: Path, move: Mover
) -> None:
    app = begin(start, programs, "late-advice")
    moving = move(app)
    if not moving.outgoing.properties.watching:
        pytest.skip("this kernel does not count system calls")
    moving.run(rounds=3)
    assert moving.outgoing.properties.reads == 1


# A step that is left out, and the field that tells it.
LEFT_OUT = {
    "settings": ("livemig.inject.process.add_changes", "settings"),
    "guarded": ("livemig.inject.process.set_guards", "guards"),
    "future-locked": ("livemig.inject.process.lock_future", "MCL_FUTURE"),
    "timers": ("livemig.inject.process.arm_timers", "timers"),
    "barrier": ("livemig.inject.process.add_registrations", "membarrier"),
    "autogroup": ("livemig.system.sched.set_autogroup", "autogroup"),
    "nice": ("livemig.incoming.set_scheduling", "scheduling"),
    "queued-signals": ("livemig.inject.process.queue_signals", "pending"),
    "proc": ("livemig.inject.process._set_outside", "oom_score_adj"),
    "dont-dump": ("livemig.inject.layout.add_advice", "the flag dd of the memory"),
    "sealed": ("livemig.incoming.seal_memory", "the flag sl of the memory"),
    "no-reserve": ("livemig.inject.layout._map_flags", "the flag nr of the memory"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_told_when_all_is_verified(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    step, field = LEFT_OUT[name]
    app = begin(start, programs, name)
    monkeypatch.setattr(step, lambda *_: MAP_PRIVATE)
    if step.endswith("_map_flags"):
        monkeypatch.setattr("livemig.inject.device_layout._map_flags", lambda *_: Flag(0))
    moving = move(app)
    moving.freeze()
    with pytest.raises(StateMismatch, match=rf"process \d+: \S*{field}\b"):
        moving.switch()
    monkeypatch.undo()
    moving.give_up()
    assert app.ask("check") == "ok"


def spans(moving: Move) -> list[tuple[int, int]]:
    return [(start, start + len(data)) for start, data in moving.outgoing.contents(1 << 20)]


def test_a_page_that_was_not_sent_is_told(start: Start, programs: Path, move: Mover) -> None:
    app = begin(start, programs, "only-read")
    moving = move(app)
    moving.freeze()
    image = moving.state()
    place = next(
        each.end - 4096
        for each in read_layout(app.pid, 1).mappings
        if each.length == 16 << 20 and each.kind is Kind.ANONYMOUS
    )
    with open(f"/proc/{moving.target.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(place)
        memory.write(b"x")
    with pytest.raises(StateMismatch, match=rf"the pages at {place:#x}-\w+ were not sent"):
        moving.incoming.rebuild(image, sent=spans(moving))
    moving.give_up()
    assert app.ask("check") == "ok"


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(start: Start, programs: Path, move: Mover, name: str) -> None:
    app = begin(start, programs, name)
    moving = move(app)
    moving.freeze()
    with pytest.raises(NotCarried, match=rf"process {app.pid}\b.*{REFUSED[name]}"):
        moving.state()
    moving.give_up()
    assert app.ask("check") == "ok"


def test_flags_of_filters_are_carried(start: Start, programs: Path, move: Mover) -> None:
    app = begin(start, programs, "logged-filter")
    app = move(app).run()
    app.settle()
    moving = move(app)
    moving.freeze()
    flags = moving.state().processes[0].credentials.seccomp_flags
    moving.give_up()
    assert flags == (SECCOMP_FILTER_FLAG_LOG, 0)


@pytest.mark.parametrize("name", ["timers", "many-timers"])
def test_timers_keep_their_numbers_where_the_kernel_counts_them(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """So it does before Linux 6.15."""
    monkeypatch.setattr("livemig.inject.timers._PR_TIMER_CREATE_RESTORE_IDS", 9999)
    app = begin(start, programs, name)
    before = list_timers(app.pid)
    app = move(app).run()
    assert app.ask("check") == "ok"
    assert list_timers(app.pid) == before
    assert app.ask("finish") == "ok"


def test_signals_keep_their_order_where_a_timer_expires_late(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt has it expire, which a busy machine may be late with."""
    monkeypatch.setattr("livemig.inject.timers._AT_ONCE", 20_000_000)
    app = move(begin(start, programs, "timers-expired")).run()
    assert app.ask("check") == "ok"
    assert app.ask("finish") == "ok"


def test_barriers_are_registered_for_where_the_kernel_has_no_list(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is before Linux 6.3."""
    monkeypatch.setattr("livemig.membarrier._GET_REGISTRATIONS", 1 << 30)
    app = begin(start, programs, "more-barriers")
    app = move(app).run()
    assert app.ask("check") == "ok"


def test_a_process_bound_to_cpus_that_the_target_lacks_is_refused(
    start: Start, programs: Path, move: Mover
) -> None:
    app = begin(start, programs, "affinity")
    moving = move(app)
    os.sched_setaffinity(moving.target.pid, {0})
    moving.freeze()
    with pytest.raises(NotCarried, match="bound to CPUs 1, of which the container has not 1"):
        moving.switch()
    moving.give_up()
    assert app.ask("check") == "ok"


def test_a_policy_that_the_target_refuses_is_named(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = begin(start, programs, "fifo")
    moving = move(app)
    moving.freeze()

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(sched, "set_attributes", refuse)
    with pytest.raises(NotCarried, match="policy FIFO, priority 3, nice 4"):
        moving.switch()
    moving.give_up()
    assert app.ask("check") == "ok"


def test_the_time_slice_of_a_kernel_is_not_that_of_a_thread(start: Start, programs: Path) -> None:
    """Another kernel has another: where nobody asked for one, there is none to carry."""
    app = start(programs / "state", "nice")
    assert app.answer() != "lacks"
    assert read_scheduling(app.pid).runtime == 0


def test_a_time_slice_may_be_the_one_of_the_targets_kernel(
    start: Start, programs: Path, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread asked for there is what nobody has to ask for here: it is no difference."""
    app = begin(start, programs, "nice")
    if (here := sched.time_slice()) == 0:
        pytest.skip("this kernel tells no time slice")
    moving = move(app)
    extract = moving.outgoing.extract

    def extract_where_another_is_usual() -> Image:
        with monkeypatch.context() as there:
            there.setattr(sched, "time_slice", lambda tid=0: here + (not tid))
            image = extract()
        assert image.processes[0].threads[0].scheduling.runtime == here
        return image

    monkeypatch.setattr(moving.outgoing, "extract", extract_where_another_is_usual)
    app = moving.run()
    assert app.ask("check") == "ok"
