"""What Docker confines a container with is the same there, and the same again back here."""

from __future__ import annotations

from pathlib import Path

import pytest

from livemig.freezer import Freezer
from tests.docker.moves import Pair, answers, inspect, move
from tests.hosts import Host

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

NAME = "confined"
FIELDS = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters")
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


def confinement(host: Host) -> dict[str, str]:
    """Return what /proc shows of how the container's process is confined."""
    pid = host.outer_pid(inspect(host, NAME)["State"]["Pid"])
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    found = {name: status[name] for name in (*FIELDS, *CAPABILITIES)}
    if APPARMOR.exists() and APPARMOR.read_text().strip() == "Y":
        found["AppArmor"] = Path(f"/proc/{pid}/attr/apparmor/current").read_text().strip()
    return found


@pytest.mark.parametrize("mode", ["live", "stop-and-copy"])
def test_there_and_back(pair: Pair, recorder_image: str, mode: str) -> None:
    here, there = pair
    here.run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    before = confinement(here)
    assert before.get("AppArmor", "docker-default (enforce)") == "docker-default (enforce)"
    for number, (source, target) in enumerate((pair, pair[::-1]), 1):
        assert answers(source, NAME, str(number)).startswith(f"ok {number} ")
        move(source, NAME, target, "--mode", mode, "--verify")
        assert confinement(target) == before
    assert answers(here, NAME, "3").startswith("ok 3 ")
    pid = here.outer_pid(inspect(here, NAME)["State"]["Pid"])
    here.run(["docker", "pause", NAME])
    assert Freezer.of_process(pid).frozen(), "not the freezer that Docker uses"
    here.run(["docker", "unpause", NAME])
    here.run(["docker", "stop", "-t", "1", NAME])
    assert there.run(["docker", "ps", "-aq"]).stdout == ""
