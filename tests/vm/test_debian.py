"""On Debian 12 as it is installed: its kernel, systemd, cgroup v2, AppArmor, its docker.io.

The short form of `make vm-debian`: of the tests one of each kind, on Docker hosts that were saved
with the guest (and the demonstration, which starts its own, in the long form). They run in the
guest, out of a fresh clone; here is only looked at what became of them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from tests import vm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(2400)]

CHOSEN = (
    "tests/root/test_moves.py::test_all_is_as_it_was[freezer-v2-live]",
    "tests/root/test_moves.py::test_it_is_confined_as_it_was",
    "tests/root/test_tracker.py::test_no_page_is_missed[soft-dirty-1]",
    "tests/root/test_tracker.py::test_what_is_mapped_while_it_begins_to_watch_can_be_moved_as_one[soft-dirty]",
    "tests/root/test_tracker.py::test_who_moves_memory_without_pause_goes_on[soft-dirty]",
    "tests/root/test_mapped_files.py::test_a_file_that_is_shared_after_a_look_at_the_layout_can_wait[soft-dirty]",
    "tests/root/test_mapped_files.py::test_memory_that_takes_the_place_of_a_shared_file_can_be_moved_as_one[soft-dirty]",
    "tests/root/test_killed.py::test_it_may_be_thawed_from_the_kill_on[freezer-v2]",
    "tests/docker/test_containers.py::test_removing_whatever_state_it_is_in[False-paused]",
    "tests/root/test_refusals.py::test_a_thread_is_refused_before_it_is_borrowed[io-ports-early]",
    "tests/root/test_refusals.py::test_a_thread_is_refused_before_it_is_borrowed[io-ports-late]",
    "tests/docker/test_move.py::test_the_tracker_and_the_layout_that_were_asked_for_are_named[soft-dirty]",
    "tests/docker/test_confinement.py::test_the_apparmor_profile[docker-default]",
    "tests/docker/test_confinement.py::test_a_privileged_container_is_refused",
)
"""Each shows what the other machines of the tests have not: cgroup v2, soft-dirty, AppArmor, and
all capabilities."""
TESTS_LIMIT = 1500.0
VERDICT = "/root/verdict.xml"
HOW = ("LIVEMIG_REQUIRE=root,docker,soft-dirty", "LIVEMIG_HOSTS_KEEP=yes")
LIVE = re.compile(r"^\s*Mode:\s+live \(soft-dirty\b", re.MULTILINE)
TYPED = re.compile(r"numbers typed, (\d+) of them while it moved")


@pytest.fixture(scope="module")
def guest() -> Iterator[vm.Guest]:
    """Start the guest as it was saved, with a fresh clone in it."""
    with vm.running(vm.Guest(vm.state_root() / "test")) as guest:
        vm.start_ready(guest)
        vm.clone(guest)
        yield guest


@pytest.fixture(scope="module")
def verdicts(guest: vm.Guest) -> dict[str, tuple[str, str]]:
    """Run the chosen tests in one go, and return what became of each, and its words."""
    words = " ".join(CHOSEN)
    settings = (f"TESTS='{words}'", f"PYTEST_ADDOPTS=--junitxml={VERDICT}", *HOW)
    vm.make(guest, "test", *settings, limit=TESTS_LIMIT, check=False)
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


@pytest.mark.long
def test_the_demonstration(guest: vm.Guest) -> None:
    """It moves live by soft-dirty, the only tracker of this kernel but comparison."""
    output = vm.demonstrate(guest)
    assert LIVE.search(output), output
    typed = TYPED.search(output)
    assert typed, output
    assert int(typed[1]) > 0, "nobody could type while it moved"


@pytest.mark.parametrize("name", CHOSEN)
def test_there_it_passes(verdicts: dict[str, tuple[str, str]], name: str) -> None:
    became, text = verdicts.get(name, ("missing", ""))
    assert became == "passed", text


def test_nothing_was_denied(guest: vm.Guest, verdicts: dict[str, tuple[str, str]]) -> None:
    """AppArmor and the kernel had nothing to object to."""
    assert verdicts
    log = guest.run(["dmesg"]).stdout.splitlines()
    words = ('apparmor="DENIED"', "BUG:", "WARNING:", "Oops")
    assert not [line for line in log if any(word in line for word in words)]
