"""The command as people type it: through either docker command, by either user, from elsewhere."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from livemig import errors
from tests import pace
from tests.conftest import NothingLeft
from tests.docker.moves import Pair, answers, inspect, move, refused, set_up, try_move
from tests.hosts import Host

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

NAME = "web"
LIMIT = pace.limit(60)
DOCKERS = [cli for cli in ("/usr/bin/docker", "/usr/local/bin/docker") if Path(cli).exists()]
ID = re.compile(r"[0-9a-f]{64}")
HOME = "/var/lib/mover"


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    """Both hosts, with a container in the first that has recorded a number."""
    set_up(hosts)
    nothing_left.ignore("images")
    hosts[0].run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    try:
        assert answers(hosts[0], NAME, "7") == "ok 1 7 1"
        yield hosts
    finally:
        for host in hosts:
            for name in host.run(["docker", "ps", "-a", "--format", "{{.Names}}"]).stdout.split():
                host.run(["docker", "rm", "-f", name])


def arrived(pair: Pair, *, left: bool = True) -> None:
    """See that it runs on in the second host, with what it had recorded."""
    assert answers(pair[1], NAME, "7") == "ok 2 7 1"
    if left:
        assert pair[0].run(["docker", "ps", "-aq"]).stdout == ""


@pytest.mark.parametrize("cli", DOCKERS)
def test_either_docker_command(pair: Pair, cli: str) -> None:
    source = pair[0]
    assert "livemig" in source.run([cli, "info", "-f", "{{.ClientInfo.Plugins}}"]).stdout
    listed = source.run([cli, "--help"]).stdout
    assert re.search(r"^  livemig\*? +\S", listed, re.MULTILINE)
    usage = source.run([cli, "livemig", "--help"]).stdout
    assert "docker livemig [OPTIONS] CONTAINER HOST" in usage
    assert "link-lost" in usage
    moved = source.run([cli, "livemig", "-q", NAME, "lmb"])
    assert ID.fullmatch(moved.stdout.strip())
    assert moved.stderr == ""
    assert inspect(pair[1], NAME)["Id"] == moved.stdout.strip()
    arrived(pair)


@pytest.mark.parametrize("cli", DOCKERS)
def test_either_docker_command_passes_the_exit_code(pair: Pair, cli: str) -> None:
    done = pair[0].run([cli, "livemig", "nobody", "lmb"], check=False)
    assert done.returncode == 11
    assert done.stderr.startswith("Error: no such container: nobody\nHint: ")


def test_plain_progress_and_the_summary(pair: Pair) -> None:
    done = pair[0].run(["docker", "livemig", NAME, "ssh://root@lmb:22"])
    lines = done.stderr.splitlines()
    assert any("ssh://root@lmb:22" in line for line in lines)
    assert any(line.startswith("round 1: ") for line in lines)
    for word in (NAME, "lma", "lmb", "Downtime", "live"):
        assert word in done.stdout
    assert "\x1b" not in done.stderr + done.stdout
    arrived(pair)


def test_json_of_progress_and_summary(pair: Pair) -> None:
    options = ["--progress", "json", "--format", "json", "--mode", "stop-and-copy"]
    done = pair[0].run(["docker", "livemig", *options, NAME, "lmb"])
    phases = [json.loads(line)["progress"]["phase"] for line in done.stderr.splitlines()]
    order = ["connect", "image", "create", "files", "freeze", "finish"]
    assert [phase for phase in order if phase in phases] == order
    summary = json.loads(done.stdout)
    assert (summary["container"], summary["source"], summary["target"]) == (NAME, "lma", "lmb")
    assert summary["mode"] == "stop-and-copy"
    assert len(summary["rounds"]) == 1
    arrived(pair)


def test_on_a_terminal(pair: Pair) -> None:
    text = on_terminal(pair[0], ["docker", "livemig", NAME, "lmb"])
    assert "\r\x1b[K" in text
    last = text.rsplit("\x1b[K", 1)[1]
    assert last.startswith(f"Container: {NAME}")
    assert "Downtime: " in last
    arrived(pair)


def on_terminal(host: Host, argv: list[str], typed: bytes = b"", after: str = "") -> str:
    """Run a command on a terminal of its own and return what that shows."""
    ours, theirs = pty.openpty()
    shown = b""
    argv = ["setsid", "--ctty", "--wait", *argv]
    with host.popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        deadline = time.monotonic() + LIMIT
        try:
            while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
                shown += os.read(ours, 4096)
                if typed and after.encode() in shown:
                    os.write(ours, typed)
                    typed = b""
        except OSError:  # EIO: nobody has the terminal open any more
            process.wait(10)
        finally:
            process.kill()
            os.close(ours)
    return shown.decode()


def test_ctrl_c_on_a_terminal(pair: Pair) -> None:
    argv = ["sh", "-c", f"trap : INT; docker livemig {NAME} lmb; echo exit=$?"]
    text = on_terminal(pair[0], argv, b"\x03", after="connecting")
    assert "cancelling, unless the move is committed already" in text
    assert "Error: the move was cancelled" in text
    assert "exit=130" in text
    assert answers(pair[0], NAME, "7") == "ok 2 7 1"
    assert pair[1].run(["docker", "ps", "-aq"]).stdout == ""


def test_limits_and_the_beginning_of_an_id(pair: Pair) -> None:
    found = inspect(pair[0], NAME)["Id"]
    options = ["--downtime-limit", "1000", "--max-rounds", "1", "--cache", "0", "--timeout", "60"]
    summary = move(pair[0], found[:8], pair[1], *options)
    assert summary["container"] == NAME
    assert len(summary["rounds"]) == 2  # and the last, frozen one
    arrived(pair)


def test_a_time_limit(pair: Pair) -> None:
    source = pair[0]
    heavy = ["--heap", "400", "--rewrite", "random", "--per-mille", "500", "--every-ms", "20"]
    source.run(["docker", "rm", "-f", NAME])
    source.run(["docker", "run", "-d", "-i", "--name", NAME, "livemig/recorder", *heavy])
    message = refused(source, NAME, "lmb", errors.StepTimeout, options=["--timeout", "1"])
    assert "longer than 1 s" in message
    assert answers(source, NAME, "7") == "ok 1 7 1"
    assert pair[1].run(["docker", "ps", "-aq"]).stdout == ""


def test_the_source_is_kept(pair: Pair) -> None:
    pair[0].run(["docker", "update", "--restart", "always", NAME])
    summary = move(pair[0], NAME, pair[1], "--keep-source")
    arrived(pair, left=False)
    names = pair[0].run(["docker", "ps", "-a", "--format", "{{.Names}}"]).stdout.split()
    assert len(names) == 1
    assert re.fullmatch(rf"{NAME}-livemig-[0-9a-f]{{12}}", names[0])
    kept = inspect(pair[0], names[0])
    assert not kept["State"]["Running"]
    assert kept["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert inspect(pair[1], NAME)["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert summary["container_id"] != kept["Id"]


def test_a_context_is_a_host(pair: Pair) -> None:
    source = pair[0]
    source.run(["docker", "context", "create", "there", "--docker", "host=ssh://root@lmb"])
    try:
        summary = json.loads(try_move(source, NAME, "there").stdout)
        assert summary["target"] == "lmb"
        arrived(pair)
    finally:
        source.run(["docker", "context", "rm", "there"])


@pytest.mark.parametrize("way", ["context", "variable", "option"])
def test_from_elsewhere(pair: Pair, way: str) -> None:
    """The command runs on the target; the source is where its docker endpoint is."""
    here, there = pair[1], "ssh://root@lma"
    command = ["docker", "livemig", "--progress", "quiet", "--format", "json", NAME, "lmb"]
    if way == "variable":
        done = here.run(command, env={"DOCKER_HOST": there})
    elif way == "option":
        done = here.run(["docker", "-H", there, *command[1:]])
    else:
        here.run(["docker", "context", "create", "there", "--docker", f"host={there}"])
        done = here.run(["docker", "--context", "there", *command[1:]])
        here.run(["docker", "context", "rm", "there"])
    summary = json.loads(done.stdout)
    assert (summary["source"], summary["target"]) == ("lma", "lmb")
    arrived(pair)


@pytest.fixture
def mover(hosts: Pair) -> Iterator[str]:
    """On both hosts, a user who may use sudo without a password, and has a key."""
    for host in hosts:
        host.run(["useradd", "--create-home", "--home-dir", HOME, "--password", "*", "mover"])
        host.run(["cp", "-r", "/root/.ssh", f"{HOME}/.ssh"])
        host.run(["chown", "-R", "mover", HOME])
        host.run(["chmod", "o+x", "/root"])  # where the interpreter may be
        sudoers = host.path("/etc/sudoers.d/mover")
        sudoers.write_text("mover ALL=(ALL) NOPASSWD: ALL\n")
        sudoers.chmod(0o440)
        config = host.path("/etc/ssh/ssh_config")
        config.write_text(config.read_text().replace("/root/", "~/"))
    yield "mover"
    for host in hosts:
        config = host.path("/etc/ssh/ssh_config")
        config.write_text(config.read_text().replace("~/", "/root/"))
        host.path("/etc/sudoers.d/mover").unlink()
        host.run(["userdel", "--remove", "mover"], check=False)


@pytest.mark.parametrize("host", ["ssh://root@lmb", "ssh://mover@lmb", "lmb"])
def test_a_user_with_sudo(mover: str, pair: Pair, host: str) -> None:
    command = ["docker", "livemig", "-q", NAME, host]
    pair[0].run(["runuser", "-u", mover, "--", "env", f"HOME={HOME}", *command])
    arrived(pair)


def test_two_containers_at_once(pair: Pair) -> None:
    source, target = pair
    names = [NAME, "second"]
    source.run(["docker", "run", "-d", "-i", "--name", "second", "livemig/recorder"])
    answers(source, "second", "7")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda name: try_move(source, name, "lmb"), names))
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    for name in names:
        assert answers(target, name, "7") == "ok 2 7 1"
    assert source.run(["docker", "ps", "-aq"]).stdout == ""


def test_the_same_container_twice_at_once(pair: Pair) -> None:
    """One of them moves it, the other is told why not; or neither, and it stays."""
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: try_move(pair[0], NAME, "lmb"), range(2)))
    codes = sorted(each.returncode for each in done)
    running = [host for host in pair if host.run(["docker", "ps", "-q"]).stdout]
    assert len(running) == 1
    assert running[0] is pair[codes[0] == 0]
    assert answers(running[0], NAME, "7") == "ok 2 7 1"
    assert codes[1] not in (0, 1, 3), [each.stderr for each in done]
    other = pair[codes[0] != 0]
    assert other.run(["docker", "ps", "-aq"]).stdout == ""
