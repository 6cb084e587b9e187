"""From machine to machine: the recorder moves from vm1 to vm2 and back while somebody types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from docker_livemig.exits import EXIT_CODES
from livemig.errors import KernelLacks, MachineMismatch
from livemig.model import COMPARISON, DEVICE, SOFT_DIRTY, STUB, WRITE_PROTECT
from tests import clocks
from tests.hosts import RECORDER
from tests.typist import Typist

from . import Guest
from .conftest import kernels
from .machines import Machine, Pair, booted_as, put_back, random_addresses

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("quiet"), pytest.mark.timeout(900)]

NAME, CLOCKS = "recorder", "clocks"
HOPS = 4
LIMIT = 300.0
LEFT = "docker ps -aq; find /var/lib/livemig -mindepth 1 ! -name setup.json ! -name .hold"
TYPING = 0.02
"""Seconds between two numbers: who types shares the processors with both machines."""


@pytest.fixture
def recorder(machines: Pair) -> Iterator[Typist]:
    """Run it in vm1, and type into it from this machine."""
    a, _ = machines
    try:
        with random_addresses(a):
            a.run(["docker", "run", "-d", "-i", "--name", NAME, RECORDER], timeout=LIMIT)
        with Typist(machines, NAME, every=TYPING, limit=LIMIT) as typist:
            typist.wait_for(20, LIMIT)
            yield typist
    finally:
        for guest in machines:
            guest.run(["docker", "rm", "-f", NAME], timeout=LIMIT, check=False)


def move(source: Guest, target: Guest, *options: str) -> dict[str, Any]:
    """Move it as a user would, with every page compared, and return the summary."""
    words = ["docker", "livemig", "--verify", "--format", "json", *options, NAME, target.name]
    summary: dict[str, Any] = json.loads(source.run(words, timeout=LIMIT).stdout)
    return summary


def there_and_back(machines: Pair, typist: Typist, *ways: tuple[str, str]) -> None:
    """Move it there and back, each time by a layout and in a mode.

    Nobody notices but by the wait, and nothing is left where it was.
    """
    for (source, target), (layout, mode) in zip((machines, machines[::-1]), ways, strict=True):
        summary = move(source, target, "--layout", layout, "--mode", mode)
        assert (summary["layout"], summary["mode"]) == (layout, mode)
        typist.wait_for(10, LIMIT)
        assert "heap=intact" in typist.verify()
        assert typist.host is target
        assert source.run(LEFT).stdout == ""


def test_they_are_two_machines_with_the_device(machines: Pair) -> None:
    kinds = {"vm1": "cgroup2fs", "vm2": "tmpfs"}
    for guest in machines:
        assert guest.run("uname -n").stdout.strip() == guest.name
        assert guest.run("stat -f -c %T /sys/fs/cgroup").stdout.strip() == kinds[guest.name]
        assert guest.run("stat -c '%F %a' /dev/livemig").stdout == "character special file 600\n"
        assert guest.run("cat /sys/module/apparmor/parameters/enabled").stdout == "Y\n"
        assert guest.run("cat /proc/1/comm").stdout == "systemd\n"


LIVE, COLD = "live", "stop-and-copy"


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ((DEVICE, LIVE), (STUB, COLD)),
        pytest.param((STUB, LIVE), (DEVICE, COLD), marks=pytest.mark.long),
        pytest.param((DEVICE, COLD), (STUB, LIVE), marks=pytest.mark.long),
        pytest.param((STUB, COLD), (DEVICE, LIVE), marks=pytest.mark.long),
    ],
    ids="-".join,
)
def test_the_recorder_goes_there_and_comes_back(
    machines: Pair, recorder: Typist, there: tuple[str, str], back: tuple[str, str]
) -> None:
    there_and_back(machines, recorder, there, back)


@pytest.mark.long
@pytest.mark.parametrize("tracker", [COMPARISON, SOFT_DIRTY, WRITE_PROTECT])
def test_with_each_tracker_the_same_pages_arrive(
    machines: Pair, recorder: Typist, tracker: str
) -> None:
    source, target = machines
    words = ["docker", "livemig", "--verify", "--tracker", tracker, NAME, target.name]
    done = source.run(words, timeout=LIMIT, check=False)
    if tracker == WRITE_PROTECT and "6.1." in source.run("uname -r").stdout:
        assert (done.returncode, WRITE_PROTECT in done.stderr) == (EXIT_CODES[KernelLacks], True)
        return
    assert done.returncode == 0, done.stderr
    recorder.wait_for(10, LIMIT)
    assert "heap=intact" in recorder.verify()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(len(set(kernels())) == 1, reason="both machines have the same kernel")
def test_clocks_go_on_where_the_vdso_is_another(machines: Pair) -> None:
    """To and fro, by device and by stub, of a program that calls every entry of its first vDSO."""
    place = "/root/clocks"
    machines[0].write(place, clocks.program().read_bytes(), 0o755)
    try:
        with random_addresses(machines[0]):
            clocks.create(machines[0].run, CLOCKS, RECORDER, place)
        found = clocks.await_calls(machines[0].run, CLOCKS, 0, LIMIT)
        for hop in range(HOPS):
            source, target = machines[hop % 2], machines[1 - hop % 2]
            words = ["docker", "livemig", "--verify", "--layout", (DEVICE, STUB)[hop // 2 % 2]]
            source.run([*words, CLOCKS, target.name], timeout=LIMIT)
            found = clocks.await_calls(target.run, CLOCKS, found, LIMIT)
            maps = target.run(f"cat /proc/$(docker inspect -f {{{{.State.Pid}}}} {CLOCKS})/maps")
            assert maps.stdout.count("[vdso]") == 1
    finally:
        for guest in machines:
            guest.run(["docker", "rm", "-f", CLOCKS], timeout=LIMIT, check=False)


@pytest.mark.long
def test_a_target_whose_processor_lacks_something_is_refused(
    machines: Pair, recorder: Typist
) -> None:
    source, target = machines
    words = ["docker", "livemig", "--progress", "json", NAME, target.name]
    with booted_as(target, Machine(1, kernels()[1]), "max,-avx2"):
        done = source.run(words, timeout=LIMIT, check=False)
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (error["code"], done.returncode) == (MachineMismatch.code, EXIT_CODES[MachineMismatch])
    assert "avx2" in error["message"]
    recorder.wait_for(10, LIMIT)


@pytest.mark.long
def test_a_source_that_loses_its_power_has_its_container_back(machines: Pair) -> None:
    """It had no restart policy while it was frozen to leave: who gives it back is at the boot.

    Its memory takes some seconds to send, so that the power goes while nothing is decided.
    """
    source, target = machines
    keep = ["docker", "run", "-d", "-i", "--name", NAME, "--restart", "unless-stopped", RECORDER]
    try:
        source.run([*keep, "--heap", "128"], timeout=LIMIT)
        with put_back(source, Machine(0, kernels()[0])):
            words = ["docker", "livemig", "--mode", "stop-and-copy", NAME, target.name]
            source.run(["systemd-run", "--no-block", *words])
            frozen = "until grep -qs freezing /var/lib/livemig/*/journal; do sleep 0.05; done"
            source.run(frozen, timeout=LIMIT)
            source.reset()
            undone = f"{NAME}: undone"
            log = "journalctl -b -u livemig-recover -o cat"
            source.run(f"until {log} | grep -q '{undone}'; do sleep 1; done", timeout=LIMIT)
            shown = source.run(["docker", "inspect", "-f", "{{json .}}", NAME]).stdout
            found = json.loads(shown)
            assert found["State"]["Status"] == "running"
            assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert target.run(LEFT).stdout == ""
    finally:
        for guest in machines:
            guest.run(["docker", "rm", "-f", NAME], timeout=LIMIT, check=False)
