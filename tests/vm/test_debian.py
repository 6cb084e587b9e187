"""On Debian 12 as it is installed: its kernel, systemd, cgroup v2, AppArmor, its docker.io.

The short form of `make vm-debian`: the demonstration, and of the tests one of each kind. They run
in the guest, out of a fresh clone; here is only looked at what became of them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from tests import vm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(2400)]

CHOSEN = (
    "tests/root/test_moves.py::test_all_is_as_it_was[freezer-v2-live]",
    "tests/root/test_moves.py::test_all_is_as_it_was[freezer-v2-stop-and-copy]",
    "tests/root/test_moves.py::test_it_is_confined_as_it_was",
    "tests/root/test_moves.py::test_a_sealed_source_does_not_run_when_we_die",
    "tests/root/test_borrow.py::test_a_plain_cat_goes_on",
    "tests/docker/test_confined.py::test_there_and_back[live]",
    "tests/docker/test_confined.py::test_there_and_back[stop-and-copy]",
)
TESTS_LIMIT = 1500.0
VERDICT = "/root/verdict.xml"


@pytest.fixture(scope="module")
def guest() -> Iterator[vm.Guest]:
    """Start the guest as it is after its first demonstration, with a fresh clone in it."""
    with vm.running(vm.Guest(vm.state_root() / "test")) as guest:
        vm.start_ready(guest)
        vm.clone(guest)
        yield guest


@pytest.fixture(scope="module")
def verdicts(guest: vm.Guest) -> dict[str, tuple[str, str]]:
    """Run the chosen tests in one go, and return what became of each, and its words."""
    words = " ".join(CHOSEN)
    settings = f"LIVEMIG_REQUIRE=root,docker PYTEST_ADDOPTS=--junitxml={VERDICT}"
    vm.make(guest, "test", f"TESTS='{words}'", settings, limit=TESTS_LIMIT, check=False)
    found = {}
    for case in ET.fromstring(guest.run(["cat", VERDICT]).stdout).iter("testcase"):
        name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
        problem = next((each for each in case if each.tag in ("failure", "error", "skipped")), None)
        text = "" if problem is None else f"{problem.get('message')}\n{problem.text}"
        found[name] = ("passed" if problem is None else problem.tag, text)
    return found


def test_it_is_what_people_have(guest: vm.Guest) -> None:
    asked = {
        "uname -r": "6.1.",
        "cat /etc/debian_version": "12.",
        "cat /proc/1/comm": "systemd",
        "stat -f -c %T /sys/fs/cgroup": "cgroup2fs",
        "cat /sys/module/apparmor/parameters/enabled": "Y",
        "dpkg-query -W -f '${Status}' docker.io": "install ok installed",
        "docker info -f '{{.CgroupDriver}} {{.CgroupVersion}}'": "systemd 2",
    }
    for script, answer in asked.items():
        assert guest.run(script).stdout.startswith(answer), script


def test_the_demonstration(guest: vm.Guest) -> None:
    vm.demonstrate(guest)


@pytest.mark.parametrize("name", CHOSEN)
def test_there_it_passes(verdicts: dict[str, tuple[str, str]], name: str) -> None:
    became, text = verdicts.get(name, ("missing", ""))
    if became == "skipped":
        pytest.skip(text.splitlines()[0])
    assert became == "passed", text


def test_nothing_was_denied(guest: vm.Guest, verdicts: dict[str, tuple[str, str]]) -> None:
    """AppArmor and the kernel had nothing to object to."""
    assert verdicts
    log = guest.run(["dmesg"]).stdout.splitlines()
    words = ('apparmor="DENIED"', "BUG:", "WARNING:", "Oops")
    assert not [line for line in log if any(word in line for word in words)]
