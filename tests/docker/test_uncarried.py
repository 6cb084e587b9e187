"""What cannot be carried is named before anything is sent, and the container stays as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from livemig.errors import NotCarried
from livemig.frames import FrameType
from tests import pace
from tests.conftest import NothingLeft
from tests.docker.commands import Command
from tests.docker.gate import gate
from tests.docker.moves import Pair, answers, facts, inspect, refused, set_up, shown
from tests.hosts.config import REPO

pytestmark = pytest.mark.docker

NAME = "odd"
PORT = f":{7000:04X} "

# Options of `docker run`, and what the message says of them.
OPTIONS = {
    "bind": (["-v", "/run:/outside"], ["bind mount of /run at /outside"]),
    "volume": (["-v", "things:/things"], ["volume things at /things"]),
    "anonymous-volume": (["-v", "/things"], ["anonymous volume at /things"]),
    "tmpfs": (["--tmpfs", "/scratch"], ["tmpfs mount at /scratch"]),
    "tmpfs-mount": (["--mount", "type=tmpfs,dst=/scratch"], ["tmpfs mount at /scratch"]),
    "network": (["--network", "office"], ["network office"]),
    "host-network": (["--network", "host"], ["--network host"]),
    "other-network": (["--network", "container:other"], ["network of another container"]),
    "link": (["--link", "other:alias"], ["--link"]),
    "pid": (["--pid", "host"], ["--pid"]),
    "ipc": (["--ipc", "host"], ["--ipc"]),
    "uts": (["--uts", "host"], ["--uts"]),
    "init": (["--init"], ["--init"]),
    "device": (["--device", "/dev/full:/dev/more"], ["device /dev/full"]),
    "device-rule": (["--device-cgroup-rule", "c 1:3 r"], ["--device-cgroup-rule"]),
    "several": (["--tmpfs", "/one", "--init", "-v", "/two"], ["/one", "/two", "--init"]),
}

# Objects that a process holds, and what the message says of them.
OBJECTS = {
    "thread": ["2 threads"],
    "child": ["2 processes", "holder"],
    "shared": ["shared memory"],
    "shared-file": ["shared memory", "/tmp/scratch"],
    "deleted-map": ["deleted", "/tmp/scratch"],
    "deleted-file": ["deleted", "/tmp/scratch"],
    "memfd": ["descriptor 3", "memfd:held"],
    "pipe": ["descriptor 3", "a pipe"],
    "unix-socket": ["descriptor 3", "a socket"],
    "listening": ["descriptor 3", "a socket"],
    "connection": ["a socket"],
    "eventfd": ["descriptor 3", "eventfd"],
    "epoll": ["descriptor 3", "eventpoll"],
    "timerfd": ["descriptor 3", "timerfd"],
    "signalfd": ["descriptor 3", "signalfd"],
    "inotify": ["descriptor 3", "inotify"],
    "flock": ["descriptor 3", "/tmp/scratch", "locks"],
    "record-lock": ["descriptor 3", "/tmp/scratch", "locks"],
    "chroot": ["chroot"],
    "posix-shm": ["/dev/shm/held"],
    "sysv-shm": ["System V shared memory"],
    "sysv-attached": ["shared memory", "SYSV"],
    "sysv-sem": ["System V semaphores"],
    "sysv-msg": ["System V message queue"],
    "proc-file": ["descriptor 3", "/status"],
}


@pytest.fixture(scope="module")
def ready(hosts: Pair, recorder_image: str) -> Iterator[Pair]:
    """Both hosts, with another container and a network in the first."""
    set_up(hosts)
    source = hosts[0]
    source.run(["docker", "run", "-d", "-i", "--name", "other", recorder_image])
    source.run(["docker", "network", "create", "office"])
    # Docker makes the mount that stands for the host's network once, and keeps it.
    source.run(["docker", "run", "--rm", "--network", "host", recorder_image, "--help"])
    yield hosts
    source.run(["docker", "rm", "-f", "other"])
    source.run(["docker", "network", "rm", "office"])


@pytest.fixture
def pair(ready: Pair, nothing_left: NothingLeft) -> Iterator[Pair]:
    """Remove the container, and see that nothing else is left on either host."""
    yield ready
    ready[0].run(["docker", "rm", "-f", "-v", NAME])
    ready[0].run(["docker", "volume", "rm", "-f", "things"])
    nothing_left.check()


@pytest.fixture(scope="module")
def holder() -> Path:
    """A program that holds one object of a given kind."""
    built = REPO / "build" / "workloads" / "holder"
    built.parent.mkdir(parents=True, exist_ok=True)
    source = REPO / "tests" / "workloads" / "holder.c"
    argv = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o"]
    subprocess.run([*argv, built, source], check=True, timeout=pace.limit(60))
    return built


@pytest.mark.parametrize("what", OPTIONS)
def test_what_docker_shows(pair: Pair, recorder_image: str, what: str) -> None:
    source = pair[0]
    options, words = OPTIONS[what]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, *options, recorder_image])
    before = facts(source, NAME)
    refused(source, NAME, "lmb", NotCarried, NAME, *words)
    assert facts(source, NAME) == before
    assert answers(source, NAME, "5") == "ok 1 5 1"


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_a_process_holds(pair: Pair, recorder_image: str, holder: Path, kind: str) -> None:
    source = pair[0]
    api = source.api()
    try:
        # `docker create -i` would have standard input end with the first who leaves.
        api.create_container(
            recorder_image,
            [kind],
            entrypoint=["/bin/holder"],
            name=NAME,
            stdin_open=True,
            detach=True,
        )
    finally:
        api.close()
    source.run(["docker", "cp", str(holder), f"{NAME}:/bin/holder"])
    source.run(["docker", "start", NAME])
    answers(source, NAME, "it holds what it has to")
    before = facts(source, NAME)
    refused(source, NAME, "lmb", NotCarried, *OBJECTS[kind])
    assert facts(source, NAME) == before
    assert answers(source, NAME, "still") == "alive still"


def test_a_process_that_came_in(pair: Pair, recorder_image: str) -> None:
    source = pair[0]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    source.run(["docker", "exec", "-d", NAME, "sleep", "300"])
    refused(source, NAME, "lmb", NotCarried, NAME, "2 processes", "recorder", "sleep")
    assert answers(source, NAME, "5") == "ok 1 5 1"


def test_a_shell_and_its_children(pair: Pair, recorder_image: str) -> None:
    source = pair[0]
    script = ["--entrypoint", "sh", recorder_image, "-c", "sleep 300 & sleep 301 & wait"]
    source.run(["docker", "run", "-d", "--name", NAME, *script])
    assert "sleep 301" in shown(source, ["docker", "top", NAME], "sleep 301")
    refused(source, NAME, "lmb", NotCarried, NAME, "3 processes", "sleep")


def test_a_connection_of_busybox(pair: Pair, recorder_image: str) -> None:
    """Two programs of the image speak with each other; one is to move."""
    source = pair[0]
    listen = ["--entrypoint", "nc", recorder_image, "-l", "-p", "7000"]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, *listen])
    tables = f"cat /proc/{inspect(source, NAME)['State']['Pid']}/net/tcp*"
    assert PORT in shown(source, ["sh", "-c", tables], PORT)
    refused(source, NAME, "lmb", NotCarried, "a socket")
    address = "{{.NetworkSettings.IPAddress}}"
    found = source.run(["docker", "inspect", "-f", address, NAME]).stdout.strip()
    call = f"import socket; s = socket.create_connection(('{found}', 7000)); print(flush=True)"
    argv = [sys.executable, "-c", f"{call}; s.recv(1)"]
    with source.popen(argv, stdout=subprocess.PIPE) as caller:
        try:
            assert caller.stdout is not None
            assert caller.stdout.readline()
            refused(source, NAME, "lmb", NotCarried, "a socket")
        finally:
            caller.kill()


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        ("bridge", ["disconnect bridge"], "no connection to the network bridge"),
        ("bridge", ["disconnect bridge", "connect none"], "no connection to the network bridge"),
        ("none", ["disconnect none", "connect bridge"], "the network bridge, to which it was"),
    ],
)
def test_networks_that_were_changed_later(
    pair: Pair, recorder_image: str, mode: str, changes: list[str], words: str
) -> None:
    source = pair[0]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, "--network", mode, recorder_image])
    for change in changes:
        source.run(["docker", "network", *change.split(), NAME])
    refused(source, NAME, "lmb", NotCarried, words)
    assert answers(source, NAME, "5") == "ok 1 5 1"


ADMINISTRATOR = ("--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")


def test_mounts_that_were_made_inside(pair: Pair, recorder_image: str) -> None:
    source = pair[0]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, *ADMINISTRATOR, recorder_image])
    source.run(["docker", "exec", NAME, "mount", "-t", "tmpfs", "none", "/tmp"])
    refused(source, NAME, "lmb", NotCarried, "/tmp", "mount")
    assert answers(source, NAME, "5") == "ok 1 5 1"


NETWORKER = ("--cap-add", "NET_ADMIN")
# What a container does that may, and what the message says of it.
ALTERED = {
    "address": (NETWORKER, "ip addr add 10.9.9.9/32 dev eth0", ["the address 10.9.9.9 of eth0"]),
    "loopback": (NETWORKER, "ip addr add 10.9.9.9/32 dev lo", ["the address 10.9.9.9 of lo"]),
    "route": (NETWORKER, "ip route add 10.9.9.0/24 dev eth0", ["the route to 10.9.9.0/24"]),
    "no-route": (NETWORKER, "ip route del default", ["no default route"]),
    "rule": (NETWORKER, "ip rule add from 10.9.9.9 table 7", ["rules of routing"]),
    "host-name": (ADMINISTRATOR, "hostname other", ["the host name 'other'"]),
    "unmounted": (ADMINISTRATOR, "umount /proc/sys", ["no mount at /proc/sys", "unmounted"]),
    "writable": ((*ADMINISTRATOR, "--read-only"), "mount -o remount,rw /", ["mount at /,"]),
}


@pytest.mark.parametrize("what", ALTERED)
def test_what_was_altered_inside(pair: Pair, recorder_image: str, what: str) -> None:
    """What Docker made of the container's network, names and mounts it makes anew elsewhere."""
    source = pair[0]
    may, script, words = ALTERED[what]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, *may, recorder_image])
    source.run(["docker", "exec", NAME, *script.split()])
    refused(source, NAME, "lmb", NotCarried, NAME, *words)
    assert answers(source, NAME, "5") == "ok 1 5 1"


@pytest.mark.parametrize("program", ["iptables-legacy", "iptables-nft"])
def test_a_packet_filter_of_its_own(pair: Pair, recorder_image: str, program: str) -> None:
    """On the target it would be open."""
    source = pair[0]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, *NETWORKER, recorder_image])
    pid = str(inspect(source, NAME)["State"]["Pid"])
    rule = [program, "-A", "OUTPUT", "-d", "10.9.9.9", "-j", "DROP"]
    source.run(["nsenter", "-t", pid, "-n", *rule])
    refused(source, NAME, "lmb", NotCarried, "the table filter of its packet filter")
    assert answers(source, NAME, "5") == "ok 1 5 1"


@pytest.mark.parametrize(
    ("option", "words"),
    [("-r", "a user namespace of its own"), ("-n", "a network namespace, which was made inside")],
)
def test_a_namespace_of_its_own(pair: Pair, recorder_image: str, option: str, words: str) -> None:
    """In a user namespace it has all capabilities, which would be those of the host elsewhere."""
    source = pair[0]
    may = [*ADMINISTRATOR, "--security-opt", "seccomp=unconfined", "--entrypoint", "unshare"]
    source.run(
        ["docker", "run", "-d", "-i", "--name", NAME, *may, recorder_image, option, "recorder"]
    )
    assert answers(source, NAME, "5") == "ok 1 5 1"
    refused(source, NAME, "lmb", NotCarried, words)
    assert answers(source, NAME, "5") == "ok 2 5 1"


DEVICES = {
    "link": ("ln -s /dev/urandom /dev/extra", "/dev/extra"),
    "node": ("mknod /dev/extra c 1 9", "/dev/extra"),
    "file": ("echo kept > /dev/extra", "/dev/extra"),
    "directory": ("mkdir /dev/net", "/dev/net"),
    "mode": ("chmod 600 /dev/zero", "/dev/zero"),
    "another-node": ("rm /dev/random; mknod -m 666 /dev/random c 1 9", "/dev/random"),
    "another-link": ("ln -sfn /proc/self/fd/1 /dev/stderr", "/dev/stderr"),
}


@pytest.mark.parametrize("kind", DEVICES)
def test_what_was_made_among_the_devices(pair: Pair, recorder_image: str, kind: str) -> None:
    source = pair[0]
    script, named = DEVICES[kind]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    source.run(["docker", "exec", NAME, "sh", "-c", script])
    message = refused(source, NAME, "lmb", NotCarried, f"{named}, which was made or changed inside")
    assert message.count("/dev/") == 1, "what the runtime made is named too"
    assert answers(source, NAME, "5") == "ok 1 5 1"


# What changes a file of Docker's, when, and what the message says of it.
EDITS = {
    "hosts": ("echo 10.9.9.9 other >> /etc/hosts", ["/etc/hosts", "'10.9.9.9 other'"]),
    "hosts-set-back": (
        "echo 10.9.9.9 other >> /etc/hosts; touch -d 2020-01-01 /etc/hosts",
        ["/etc/hosts", "'10.9.9.9 other'"],
    ),
    "hosts-emptied": (": > /etc/hosts", ["/etc/hosts", "it lacks localhost"]),
    "hostname": ("echo other > /etc/hostname", ["/etc/hostname", "it says 'other'"]),
    "resolv": ("echo nameserver 10.9.9.9 > /etc/resolv.conf", ["/etc/resolv.conf"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_of_docker_that_was_edited_at_once(
    pair: Pair, recorder_image: str, edit: str
) -> None:
    """The program does it itself, before anything else: within milliseconds of its start."""
    source = pair[0]
    script, words = EDITS[edit]
    argv = ["--entrypoint", "sh", recorder_image, "-c", f"{script}; exec recorder"]
    source.run(["docker", "run", "-d", "-i", "--name", NAME, *argv])
    assert answers(source, NAME, "5") == "ok 1 5 1"
    refused(source, NAME, "lmb", NotCarried, "changed inside", *words)
    assert answers(source, NAME, "5") == "ok 2 5 1"


@pytest.mark.parametrize("place", ["/dev/shm/late", "/dev/late", "/etc/hosts"])
def test_what_is_made_while_the_container_moves(
    pair: Pair, recorder_image: str, place: str
) -> None:
    source, target = pair
    source.run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    with gate(target, FrameType.ROUND_END) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        source.run(["docker", "exec", NAME, "sh", "-c", f"echo 10.9.9.9 late >>{place}"])
        held.open()
        assert place in command.must_fail(NotCarried)
    assert answers(source, NAME, "5") == "ok 1 5 1"
