"""The two hosts: apart from each other and from the machine, joined by ssh, gone when ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import pace
from tests.conftest import NothingLeft
from tests.hosts import Host, HostsError, cut, leaks, restart, snapshot, state_root
from tests.hosts import cgroups as host_cgroups
from tests.hosts.config import REPO

pytestmark = pytest.mark.docker

Pair = tuple[Host, Host]
CLIS = [cli for cli in ("/usr/bin/docker", "/usr/local/bin/docker") if Path(cli).exists()]


@pytest.mark.parametrize("cli", CLIS)
def test_each_host_has_a_docker_of_its_own(hosts: Pair, cli: str) -> None:
    answers = [host.run([cli, "info", "-f", "{{.Name}} {{.ID}}"]).stdout for host in hosts]
    assert [answer.split()[0] for answer in answers] == ["lma", "lmb"]
    assert answers[0].split()[1] != answers[1].split()[1]


def test_root_gets_from_host_to_host_without_a_password(hosts: Pair) -> None:
    a, b = hosts
    for one, other in ((a, b), (b, a)):
        command = ["ssh", "-o", "BatchMode=yes", other.name, "hostname; docker info -f '{{.Name}}'"]
        assert one.run(command).stdout.split() == [other.name, other.name]


def test_a_host_sees_neither_the_other_nor_the_machine(hosts: Pair) -> None:
    a, b = hosts
    for host in (a, b):
        host.run(["sh", "-c", f"echo {host.name} | tee /run/mark /tmp/mark /etc/mark"])
        host.run(["sh", "-c", f"echo {host.name} | tee /root/mark /var/lib/docker/mark"])
    marks = ("/run/mark", "/tmp/mark", "/etc/mark", "/root/mark", "/var/lib/docker/mark")
    for host in (a, b):
        assert host.run(["cat", *marks]).stdout.split() == [host.name] * 5
        assert host.run(["ls", "-A", str(state_root())]).stdout == ""
        host.run(["rm", *marks])
    assert not any(Path(mark).exists() for mark in marks)
    assert b.run(["sh", "-c", f"kill -0 {a.pid}"], check=False).returncode != 0


def test_a_container_runs_and_leaves_nothing(
    hosts: Pair, recorder_image: str, nothing_left: NothingLeft
) -> None:
    a, _ = hosts
    out = a.run(["docker", "run", "-i", "--rm", recorder_image], input="7\n0\n").stdout
    assert out.splitlines()[:2] == ["ready", "ok 1 7 1"]
    nothing_left.check()


def test_what_is_left_behind_is_found(hosts: Pair, recorder_image: str) -> None:
    a, _ = hosts
    before = snapshot(a)
    a.run(["mkdir", "-p", "/run/livemig/left"])
    a.run(["docker", "run", "-d", "-i", "--name", "left", recorder_image])
    found = leaks(before, snapshot(a))
    a.run(["docker", "rm", "-f", "left"])
    a.run(["rm", "-r", "/run/livemig"])
    assert set(found) == {"processes", "mounts", "networks", "cgroups", "containers", "files"}
    assert "/run/livemig/left" in found["files"]


def test_a_process_that_executes_another_program_is_not_left_behind(hosts: Pair) -> None:
    """`docker start` returns while runc's first process is yet to become the container's."""
    script = "echo first; read line; exec sh -c 'echo second; read line'"
    with hosts[0].popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        before = snapshot(hosts[0])
        process.stdin.write("on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "second\n"
        after = snapshot(hosts[0])
        process.stdin.close()
    assert before.processes != after.processes
    assert leaks(before, after) == {}


def test_pids_are_translated(hosts: Pair, recorder_image: str) -> None:
    a, _ = hosts
    a.run(["docker", "run", "-d", "-i", "--name", "pid", recorder_image])
    inner = int(a.run(["docker", "inspect", "-f", "{{.State.Pid}}", "pid"]).stdout)
    command = Path(f"/proc/{a.outer_pid(inner)}/comm").read_text()
    a.run(["docker", "rm", "-f", "pid"])
    assert command == "recorder\n"


def test_a_command_that_takes_too_long_is_ended(hosts: Pair) -> None:
    a, _ = hosts
    with pytest.raises(HostsError, match="no end after"):
        a.run(["sleep", "1001"], timeout=0.5)
    assert "sleep 1001" not in a.run(["ps", "ax"]).stdout.replace("ps ax", "")


def test_signals_reach_the_command_itself(hosts: Pair) -> None:
    script = 'trap "echo caught; exit 3" INT; echo set; while :; do sleep 0.05; done'
    with hosts[0].popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "set\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=pace.limit(10))[0] == "caught\n"
    assert process.returncode == 3


def test_the_link_can_be_cut_and_mended(hosts: Pair) -> None:
    a, b = hosts
    impatient = ["ssh", "-o", "ConnectTimeout=1", b.name, "true"]
    cut(a)
    try:
        assert a.run(impatient, check=False, timeout=20).returncode == 255
    finally:
        cut(a, mend=True)
    assert a.run(["ssh", b.name, "true"]).returncode == 0


def test_a_host_that_lost_power_comes_back_with_its_disk(hosts: Pair, recorder_image: str) -> None:
    a, b = hosts
    b.run(["sh", "-c", "echo kept | tee /var/lib/livemig/kept /run/gone"])
    b.kill()
    with pytest.raises(HostsError, match="is down"):
        b.run(["true"])
    restart(b)
    assert b.run(["cat", "/var/lib/livemig/kept"]).stdout == "kept\n"
    assert not b.path("/run/gone").exists()
    b.run(["rm", "/var/lib/livemig/kept"])
    assert a.run(["ssh", b.name, "docker", "ps", "-q"]).stdout == ""
    assert recorder_image in str(a.api().images())


def test_the_engine_restarts(hosts: Pair) -> None:
    b = hosts[1]
    for sig in (signal.SIGTERM, signal.SIGKILL):
        b.stop_engine(sig)
        assert b.engine() is None
        b.start_engine()
        assert b.api().ping()


HOLDER = """
import sys
from tests.hosts import two_hosts
with two_hosts() as (a, b):
    print(a.pid, b.pid, a.config.cgroup, flush=True)
    sys.stdin.read()
"""


@pytest.mark.timeout(180)
def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    environment = {**os.environ, "LIVEMIG_HOSTS_DIR": str(tmp_path / "hosts")}

    def hold() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with hold() as first:
        pids = _line(first).split()[:2]
        first.kill()
    assert all(Path("/proc", pid).exists() for pid in pids)
    with hold() as second:
        *_, cgroup = _line(second).split()
        assert not any(Path("/proc", pid).exists() for pid in pids)
        second.communicate("")
    assert second.returncode == 0
    assert [entry.name for entry in (tmp_path / "hosts").iterdir()] == ["lock"]
    assert list(host_cgroups.roots(cgroup)) == []


def test_a_repository_below_tmp_is_seen_by_the_hosts(tmp_path: Path) -> None:
    """Though a host has a /tmp of its own."""
    repo = tmp_path / "repo"
    shutil.copytree(REPO / "tests", repo / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    script = "from tests.hosts import *\nwith two_hosts() as (a, b):\n print(a.run(['ls', REPO]))"
    done = subprocess.run(
        [sys.executable, "-c", script.replace("REPO", repr(str(repo)))],
        cwd=repo,
        env={**os.environ, "LIVEMIG_HOSTS_DIR": str(tmp_path / "hosts")},
        check=False,
        capture_output=True,
        text=True,
        timeout=pace.limit(100),
    )
    assert "stdout='tests\\n'" in done.stdout, done.stdout + done.stderr


def _line(process: subprocess.Popen[str]) -> str:
    """Read a line, for a minute at most."""
    assert process.stdout is not None
    watch = threading.Timer(60, process.kill)
    watch.start()
    try:
        return process.stdout.readline()
    finally:
        watch.cancel()
        watch.join()
