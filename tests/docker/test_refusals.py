"""Moves that are refused: the reason is named, and nothing is changed on either host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from livemig import errors
from livemig.errors import LivemigError
from livemig.model import TrackerChoice
from livemig.system.device import PATH
from livemig.tracker import check_tracker
from tests.conftest import NothingLeft
from tests.docker.moves import PLUGIN, Pair, answers, facts, refused, replaced, set_up
from tests.hosts import RECORDER, Host, cut, load_images
from tests.unit import fake_peer

pytestmark = pytest.mark.docker

NAME = "refused"
KEYS = "/etc/ssh/authorized_keys"
ROOM = "/var/lib/docker"
INODES = 1 << 20
ROOMY = f"size=8g,nr_inodes={INODES}"

DEAF_PEER = """\
#!/bin/sh
case "$*" in
*--stdio*) head --bytes 3000 | {python} -I -m docker_livemig.main "$@" ;;
*) exec {python} -I -m docker_livemig.main "$@" ;;
esac
"""
OTHER_PEER = """\
#!/bin/sh
case "$*" in
*--stdio*) exec {python} {fake} {behaviour} ;;
esac
exec {python} -I -m docker_livemig.main "$@"
"""


@pytest.fixture(scope="module")
def ready(hosts: Pair, recorder_image: str) -> Iterator[Pair]:
    """Both hosts, with a container that runs, and keeps running, in the first.

    The second does not have its image, whatever was moved there before.
    """
    set_up(hosts)
    hosts[1].run(["docker", "rmi", "-f", recorder_image], check=False)
    start(hosts[0], NAME, recorder_image, "--restart", "unless-stopped", "-p", "18080:80")
    yield hosts
    hosts[0].run(["docker", "rm", "-f", NAME])


@pytest.fixture
def pair(ready: Pair, nothing_left: NothingLeft) -> Iterator[Pair]:
    """See that the container runs on as it was, and that nothing is left on either host."""
    source, before = ready[0], facts(ready[0], NAME)
    count = int(answers(source, NAME, "7").split()[1])
    yield ready
    nothing_left.check()
    assert facts(source, NAME) == before
    assert answers(source, NAME, "7").split()[:2] == ["ok", str(count + 1)]


def start(host: Host, name: str, image: str, *options: str) -> None:
    host.run(["docker", "run", "-d", "-i", "--name", name, *options, image])


# The container


def test_no_such_container(pair: Pair) -> None:
    refused(pair[0], "nobody", "lmb", errors.NoSuchContainer, "nobody")


@pytest.mark.parametrize("state", ["created", "exited"])
def test_not_running(pair: Pair, state: str) -> None:
    source = pair[0]
    source.run(["docker", "create", "--name", "idle", RECORDER, "--help"])
    try:
        if state == "exited":
            source.run(["docker", "start", "-a", "idle"])
        refused(source, "idle", "lmb", errors.NotRunning, "idle", state)
    finally:
        source.run(["docker", "rm", "idle"])


def test_a_dry_run_says_what_a_move_would(pair: Pair) -> None:
    """Both hosts are asked, and neither keeps anything of it."""
    source = pair[0]
    said = source.run(["docker", "livemig", "--dry-run", NAME, "lmb"]).stdout
    assert f"{NAME} (not moved)" in said
    assert "nothing stands in its way" in said
    assert source.run(["docker", "livemig", "--dry-run", "-q", NAME, "lmb"]).stdout == ""
    for host in pair:
        assert (
            json.loads(host.run(["docker", "livemig", "status", "--format", "json"]).stdout)[
                "moves"
            ]
            == []
        )


def test_paused(pair: Pair) -> None:
    source = pair[0]
    start(source, "asleep", RECORDER)
    try:
        source.run(["docker", "pause", "asleep"])
        refused(source, "asleep", "lmb", errors.Paused, "asleep")
        assert facts(source, "asleep")["State"]["Paused"]
        source.run(["docker", "unpause", "asleep"])
        assert answers(source, "asleep", "5").startswith("ok 1 5")
    finally:
        source.run(["docker", "rm", "-f", "asleep"])


def test_keep_source_of_what_docker_removes(pair: Pair) -> None:
    source = pair[0]
    start(source, "fleeting", RECORDER, "--rm")
    try:
        options = ["--keep-source"]
        refused(source, "fleeting", "lmb", errors.UsageError, "fleeting", "--rm", options=options)
        assert answers(source, "fleeting").startswith("count=0")
    finally:
        source.run(["docker", "rm", "-f", "fleeting"])


@pytest.mark.parametrize(
    "options", [["--no-such-option"], ["--mode", "warm"], ["--max-rounds", "0"]]
)
def test_wrong_options(pair: Pair, options: list[str]) -> None:
    result = pair[0].run(["docker", "livemig", *options, NAME, "lmb"], check=False)
    assert result.returncode == 2
    assert options[-1] in result.stderr
    assert "--help" in result.stderr


# The way to the other host


@pytest.mark.parametrize(
    ("host", "error", "words"),
    [
        ("nowhere.invalid", errors.HostUnknown, ["nowhere.invalid", "resolve"]),
        ("ssh://root@lmb:9", errors.HostUnreachable, ["ssh://root@lmb:9", "refused"]),
        ("ssh://nobody-of-that-name@lmb", errors.HostUnreachable, ["Permission denied"]),
        ("tcp://lmb:2375", errors.UsageError, ["tcp://lmb:2375"]),
        ("lma", errors.NameTaken, [NAME, "lma", "HOST is this very host"]),
    ],
)
def test_hosts_that_cannot_be(
    pair: Pair, host: str, error: type[LivemigError], words: list[str]
) -> None:
    refused(pair[0], NAME, host, error, *words)


def test_a_context_without_ssh(pair: Pair) -> None:
    source = pair[0]
    source.run(["docker", "context", "create", "local", "--docker", "host=unix:///run/x.sock"])
    try:
        refused(source, NAME, "local", errors.HostUnknown, "local", "unix:///run/x.sock")
    finally:
        source.run(["docker", "context", "rm", "local"])


def test_a_key_that_is_not_let_in(pair: Pair) -> None:
    with replaced(pair[1], KEYS, "", 0o644):
        refused(pair[0], NAME, "lmb", errors.HostUnreachable, "lmb", "Permission denied")


def test_a_host_key_that_is_not_known(pair: Pair) -> None:
    with replaced(pair[0], "/root/.ssh/known_hosts", "", 0o644):
        refused(pair[0], NAME, "lmb", errors.HostUnreachable, "lmb", "Host key verification failed")


def test_a_cable_that_is_out(pair: Pair) -> None:
    cut(pair[0])
    try:
        refused(pair[0], NAME, "lmb", errors.HostUnreachable, "lmb", "unreachable")
    finally:
        cut(pair[0], mend=True)


# What is missing there


@contextmanager
def path(host: Host, places: str) -> Iterator[None]:
    """Have programs looked for in other places by whoever logs in."""
    with replaced(host, "/root/.bashrc", f"PATH={places}\n"):
        yield


@contextmanager
def no_engine(host: Host) -> Iterator[None]:
    host.stop_engine()
    try:
        yield
    finally:
        host.start_engine()


@contextmanager
def another_driver(host: Host) -> Iterator[None]:
    """Have the engine keep images and files by another storage driver."""
    settings = host.path("/etc/docker/daemon.json")
    kept = settings.read_text()
    with no_engine(host):
        settings.write_text(json.dumps(json.loads(kept) | {"storage-driver": "vfs"}))
        try:
            host.start_engine()
            yield
        finally:
            host.stop_engine()
            settings.write_text(kept)


@contextmanager
def no_runtime(host: Host) -> Iterator[None]:
    host.run(["docker", "livemig", "setup", "--undo"])
    try:
        yield
    finally:
        host.run(["docker", "livemig", "setup"])


def other_peer(host: Host, behaviour: str) -> AbstractContextManager[None]:
    launcher = OTHER_PEER.format(
        python=host.config.python, fake=fake_peer.__file__, behaviour=behaviour
    )
    return replaced(host, PLUGIN, launcher)


Lack = Callable[[Host], AbstractContextManager[None]]
MISSING: dict[str, tuple[Lack, type[LivemigError], list[str]]] = {
    "docker": (lambda host: path(host, "/nowhere"), errors.NoDocker, ["docker"]),
    "engine": (no_engine, errors.NoDocker, ["docker.sock"]),
    "plugin": (lambda host: replaced(host, PLUGIN, None), errors.NoPlugin, ["docker-livemig"]),
    "runtime": (no_runtime, errors.RuntimeMissing, ["livemig-runc"]),
    "driver": (another_driver, errors.CreateFailed, ["storage driver vfs", "overlay2"]),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_the_target_lacks(pair: Pair, nothing_left: NothingLeft, what: str) -> None:
    lack, error, words = MISSING[what]
    if what in ("engine", "driver"):
        nothing_left.ignore("processes")  # it is another one afterwards
    with lack(pair[1]):
        refused(pair[0], NAME, "lmb", error, "lmb", *words)


def test_a_tracker_that_the_kernel_lacks_is_refused_before_the_target_is_called(pair: Pair) -> None:
    trackers: tuple[TrackerChoice, ...] = ("soft-dirty", "write-protect")
    for tracker in trackers:
        try:
            check_tracker(tracker)
        except errors.KernelLacks as error:
            words = [error.message]
            options = ["--tracker", tracker]
            refused(pair[0], NAME, "nowhere.invalid", errors.KernelLacks, *words, options=options)
            return
    pytest.skip("this kernel lacks none")


@pytest.mark.skipif(not Path("/usr/bin/docker").exists(), reason="one docker command only")
def test_no_plugin_as_an_older_docker_says_it(pair: Pair) -> None:
    with path(pair[1], "/usr/bin:/bin"), replaced(pair[1], PLUGIN, None):
        refused(pair[0], NAME, "lmb", errors.NoPlugin, "lmb", "docker-livemig")


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        ("version", errors.VersionMismatch, ["lmb", "protocol 2", "protocol 1", "9.9.9"]),
        ("garbage", errors.ProtocolError, ["lmb"]),
        ("vanish", errors.MachineMismatch, ["arch"]),
        ("exit '9 it broke'", errors.HostError, ["lmb", "it broke"]),
    ],
)
def test_peers_that_are_no_match(
    pair: Pair, behaviour: str, error: type[LivemigError], words: list[str]
) -> None:
    with other_peer(pair[1], behaviour):
        refused(pair[0], NAME, "lmb", error, *words)


def test_a_peer_that_ends_early(pair: Pair) -> None:
    """It has said HELLO, and hears no more than the beginning of what follows."""
    with replaced(pair[1], PLUGIN, DEAF_PEER.format(python=pair[1].config.python)):
        refused(pair[0], NAME, "lmb", errors.LinkLost, "lmb")


def test_a_user_who_cannot_become_root(pair: Pair) -> None:
    target = pair[1]
    target.run(["useradd", "--no-create-home", "--password", "*", "mover"])
    try:
        words = ["ssh://mover@lmb", "root"]
        refused(pair[0], NAME, "ssh://mover@lmb", errors.NotRoot, *words)
    finally:
        target.run(["userdel", "--force", "mover"])  # sshd may still be about to end


# What stands in the way there


@contextmanager
def other_image(host: Host, tag: str) -> Iterator[None]:
    host.run(["sh", "-c", f"tar --create --files-from=/dev/null | docker import - {tag}"])
    try:
        yield
    finally:
        host.run(["docker", "rmi", tag])


def test_the_name_is_taken(pair: Pair) -> None:
    target = pair[1]
    with other_image(target, "other:1"):
        target.run(["docker", "create", "--name", NAME, "other:1", "command"])
        try:
            for options in ([], ["--dry-run"]):
                refused(pair[0], NAME, "lmb", errors.NameTaken, NAME, "lmb", options=options)
            refused(pair[0], "no" + NAME, "lmb", errors.NoSuchContainer)
        finally:
            target.run(["docker", "rm", NAME])


def test_the_tag_is_another_image(pair: Pair) -> None:
    with other_image(pair[1], RECORDER):
        refused(pair[0], NAME, "lmb", errors.ImageConflict, RECORDER, "lmb")


@pytest.mark.skipif(Path(PATH).exists(), reason="this machine has the device")
def test_the_target_has_no_device(pair: Pair) -> None:
    options = ("--layout", "device")
    message = refused(pair[0], NAME, "lmb", errors.KernelLacks, "lmb", PATH, options=options)
    assert "--layout device" in message


def test_the_published_port_is_in_use(pair: Pair) -> None:
    listen = "import socket; s = socket.create_server(('', 18080)); print(flush=True); s.accept()"
    with pair[1].popen([sys.executable, "-c", listen], stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline()
            refused(pair[0], NAME, "lmb", errors.CreateFailed, NAME, "18080")
        finally:
            listener.kill()


@pytest.fixture(scope="module")
def small_disk(ready: Pair) -> Iterator[Host]:
    """Have the target's engine keep everything in a file system whose size can be chosen."""
    host = ready[1]
    with ExitStack() as stack:
        host.stop_engine()
        stack.callback(host.start_engine)
        host.run(["mount", "-t", "tmpfs", "-o", ROOMY, "tmpfs", ROOM])
        stack.callback(host.run, ["umount", "--lazy", ROOM])
        stack.callback(host.stop_engine)
        host.start_engine()
        yield host


@contextmanager
def small(host: Host, *, size: str = "8g", free_inodes: int = 0) -> Iterator[None]:
    used = os.statvfs(host.path(ROOM))
    inodes = used.f_files - used.f_ffree + free_inodes if free_inodes else INODES
    host.run(["mount", "-o", f"remount,size={size},nr_inodes={inodes}", ROOM])
    try:
        yield
    finally:
        host.run(["mount", "-o", f"remount,{ROOMY}", ROOM])


@contextmanager
def loaded(host: Host) -> Iterator[None]:
    load_images(host)
    try:
        yield
    finally:
        host.run(["docker", "rmi", RECORDER])


@contextmanager
def files_of(host: Host, name: str, script: str) -> Iterator[None]:
    """Run a container that has written files."""
    start(host, name, RECORDER)
    try:
        host.run(["docker", "exec", name, "sh", "-c", script])
        yield
        assert answers(host, name).startswith("count=0")
    finally:
        host.run(["docker", "rm", "-f", name])


def test_no_room_for_the_image(small_disk: Host, pair: Pair) -> None:
    with small(small_disk, size="8m"):
        refused(pair[0], NAME, "lmb", errors.DiskFull, "lmb", ROOM)


def test_the_disk_is_full_while_the_image_comes(small_disk: Host, pair: Pair) -> None:
    """Its bytes would fit, its files do not."""
    with small(small_disk, free_inodes=200):
        refused(pair[0], NAME, "lmb", errors.DiskFull, "lmb")


def test_no_room_for_the_files(small_disk: Host, pair: Pair) -> None:
    write = "dd if=/dev/zero of=/large bs=1M count=128"
    with loaded(small_disk), files_of(pair[0], "large", write), small(small_disk, size="64m"):
        refused(pair[0], "large", "lmb", errors.DiskFull, "lmb", ROOM)


def test_the_disk_is_full_while_files_come(small_disk: Host, pair: Pair) -> None:
    write = "mkdir /many && cd /many && seq 4000 | xargs touch"
    full = small(small_disk, free_inodes=2000)
    with loaded(small_disk), files_of(pair[0], "many", write), full:
        refused(pair[0], "many", "lmb", errors.DiskFull, "lmb")
