"""`make install` and `make uninstall`, as an operator calls them, in a host of its own files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from docker_livemig.version import VERSION
from tests import pace
from tests.conftest import NothingLeft
from tests.docker.moves import PLUGIN, Pair, answers, inspect, move, replaced, set_up
from tests.hosts import Host
from tests.hosts.config import REPO

pytestmark = pytest.mark.docker

NAME = "first"
PLACE = "/usr/local"
LIBRARY = f"{PLACE}/lib/docker-livemig"
RUNTIME = f"{PLACE}/bin/livemig-runc"
INSTALLED = (LIBRARY, PLUGIN, RUNTIME)


@pytest.fixture
def bare(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    """Yield both hosts: in the first is the image, and nothing of ours; the other is set up."""
    assert recorder_image
    nothing_left.ignore("images")
    set_up(hosts)
    first = hosts[0]
    first.run(["docker", "livemig", "setup", "--undo"])
    # The machine may have it installed, and the host sees the machine's files.
    first.run(["rm", "-rf", LIBRARY])
    with replaced(first, PLUGIN, None), replaced(first, RUNTIME, None):
        yield hosts
        for host in hosts:
            host.run(["docker", "rm", "-f", NAME], check=False)
        uninstall(first, check=False)
    set_up(hosts)


def install(host: Host) -> None:
    """Call it among the host's files, but in this machine's network: it asks PyPI."""
    subprocess.run(
        ["nsenter", "--target", str(host.pid), "--mount", "make", "-C", str(REPO), "install"],
        env={**os.environ, "PREFIX": PLACE},
        check=True,
        timeout=pace.limit(120),
    )


def uninstall(host: Host, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return host.run(["make", "-C", str(REPO), "uninstall"], check=check)


def there(host: Host) -> list[str]:
    return [path for path in INSTALLED if os.path.lexists(host.path(path))]


@pytest.mark.timeout(240)
def test_there_and_back_and_gone(bare: Pair) -> None:
    first, other = bare
    assert not there(first)
    assert uninstall(first).returncode == 0, "nothing is there: no error"
    install(first)
    assert there(first) == [*INSTALLED]
    assert VERSION in first.run(["docker", "livemig", "version"]).stdout
    first.run(["docker", "livemig", "setup"])
    first.run(["docker", "run", "-d", "-i", "--name", NAME, "livemig/recorder"])
    assert answers(first, NAME, "7") == "ok 1 7 1"
    move(first, NAME, other, "--verify")
    move(other, NAME, first, "--verify")
    assert inspect(first, NAME)["HostConfig"]["Runtime"] == "livemig-runc"
    refused = uninstall(first, check=False)
    assert refused.returncode != 0
    assert f"still needed by: {NAME}" in refused.stderr
    assert there(first) == [*INSTALLED]
    assert answers(first, NAME, "8") == "ok 2 8 2"
    first.run(["docker", "rm", "-f", NAME])
    uninstall(first)
    assert not there(first)
    assert "livemig-runc" not in first.run(["docker", "info", "-f", "{{.Runtimes}}"]).stdout
