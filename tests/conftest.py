"""What all tests share: what the machine can run, the two hosts, and the search for leftovers."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from tests import pace, vm
from tests.hosts import RECORDER, Host, Snapshot, leaks, load_images, snapshot, two_hosts

SETTLE = pace.limit(25)
TOOLS = ("docker", "dockerd", "sshd", "ssh", "ssh-keygen", "nsenter", "setpriv", "ip", "iptables")
VM_TOOLS = ("qemu-system-x86_64", "qemu-img", "debootstrap", "mke2fs", "ssh", "ssh-keygen")
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
CAP_SYS_PTRACE, CAP_SYS_ADMIN = 19, 21


def _lacks_root() -> str | None:
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.split("CapEff:")[1].split()[0], 16)
    for number, name in ((CAP_SYS_PTRACE, "CAP_SYS_PTRACE"), (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")):
        if not capabilities >> number & 1:
            return f"needs root ({name})"
    return None


def _lacks_docker() -> str | None:
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"needs {', '.join(missing)} (make deps)"
    return _lacks_root()


def _lacks_vm() -> str | None:
    missing = [tool for tool in VM_TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"needs {', '.join(missing)} (make vm-deps)"
    if not vm.is_prepared():
        return "needs the guest, which takes a while to make (make vm-prepare)"
    return _lacks_root()


LACKS: dict[str, Callable[[], str | None]] = {
    "root": _lacks_root,
    "docker": _lacks_docker,
    "vm": _lacks_vm,
}


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker that `make test` leaves to `make test-long`, and let all be interrupted.

    A shell that starts this in the background has SIGINT ignored, and so would have every child.
    SIGTERM does what Ctrl-C does: what the tests have started is ended.
    How long an example may take, hypothesis is not to say: a test has a limit of its own, and a
    machine that is emulated needs longer than hypothesis allows.
    """
    unhurried = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile(
        "unhurried", deadline=None, suppress_health_check=unhurried
    )
    hypothesis.settings.load_profile("unhurried")
    config.addinivalue_line("markers", "long: takes minutes (make test-long)")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give a slow machine the time that it needs: the limit of every test, by the same factor."""
    for item in items if pace.SLOW > 1 else ():
        marker = item.get_closest_marker("timeout")
        if usual := marker.args[0] if marker else config.getini("timeout"):
            item.add_marker(pytest.mark.timeout(pace.limit(float(usual))), append=False)


def required() -> list[str]:
    """Return what LIVEMIG_REQUIRE says that must be there: markers, trackers."""
    return os.environ.get("LIVEMIG_REQUIRE", "").replace(",", " ").split()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the machine cannot run; fail where LIVEMIG_REQUIRE says that it must."""
    needed = required()
    for marker, lacks in LACKS.items():
        if item.get_closest_marker(marker) is None:
            continue
        reason = lacks()
        if reason and marker in needed:
            pytest.fail(f"LIVEMIG_REQUIRE={marker}, but {reason}", pytrace=False)
        if reason:
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what was skipped for a reason that LIVEMIG_MAY_LACK, where it is set, does not name."""
    report = yield
    allowed = os.environ.get("LIVEMIG_MAY_LACK")
    if call.excinfo is not None and report.skipped and allowed is not None:
        reason = str(call.excinfo.value)
        if not any(part and part in reason for part in allowed.split(",")):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: LIVEMIG_MAY_LACK={allowed}, but {reason}"
    return report


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    """Fail a test that leaves a process of its own behind."""
    me = psutil.Process()
    before = set(me.children(recursive=True))
    yield
    left = [child for child in me.children(recursive=True) if child not in before]
    _, alive = psutil.wait_procs(left, timeout=pace.limit(20))
    if alive:
        names = [f"{child.pid} {child.name()} ({child.status()})" for child in alive]
        pytest.fail(f"the test left processes: {', '.join(names)}", pytrace=False)


@pytest.fixture(scope="session")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Both hosts, started once; a test leaves them as it found them.

    LIVEMIG_HOSTS_KEEP says to use those of `make hosts`: for who runs one test again and again, or
    on a machine that is slow to start them.
    """
    with two_hosts(keep=bool(os.environ.get("LIVEMIG_HOSTS_KEEP"))) as pair:
        yield pair


@pytest.fixture(scope="session")
def recorder_image(hosts: tuple[Host, Host]) -> str:
    """The recorder's image, loaded in the first host only."""
    load_images(hosts[0])
    return RECORDER


class NothingLeft:
    """Compares both hosts with what they were before the test."""

    def __init__(self, pair: tuple[Host, Host]) -> None:
        self._pair = pair
        self._before = [snapshot(host) for host in pair]
        self._ignored: set[str] = set()

    def ignore(self, kind: str) -> None:
        """Take no offence at a kind (a field of Snapshot), such as the images of a real move."""
        assert kind in Snapshot.__dataclass_fields__
        self._ignored.add(kind)

    def check(self) -> None:
        """Fail if anything was left; what is about to end has a little time for that.

        Files of ours are removed then: the next test sees all moves of its hosts.
        """
        deadline = time.monotonic() + SETTLE
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for host in self._pair:
            if files := left.get(host.name, {}).get("files"):
                host.run(["rm", "-rf", *files])
        assert not left, f"left behind: {left}"

    def _left(self) -> dict[str, dict[str, list[str]]]:
        found = {}
        for host, before in zip(self._pair, self._before, strict=True):
            here = leaks(before, snapshot(host))
            kept = {kind: names for kind, names in here.items() if kind not in self._ignored}
            if kept:
                found[host.name] = kept
        return found


@pytest.fixture
def nothing_left(hosts: tuple[Host, Host]) -> Iterator[NothingLeft]:
    """Fail the test if it leaves anything in one of the hosts."""
    guard = NothingLeft(hosts)
    yield guard
    guard.check()
