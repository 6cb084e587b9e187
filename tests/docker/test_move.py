"""The main job: the recorder moves between two Docker engines while somebody types into it."""

from __future__ import annotations

import base64
import os
import socket
import time
from pathlib import Path

import pytest

from livemig.errors import KernelLacks, TransferError
from livemig.frames import FrameType
from livemig.model import TRACKERS, TrackerChoice
from livemig.tracker import check_tracker
from tests import pace
from tests.docker.commands import Command
from tests.docker.gate import gate
from tests.docker.moves import Pair, answers, inspect, move
from tests.hosts import Host, leaks, load_images, snapshot
from tests.programs import copy_to
from tests.typist import Typist

pytestmark = pytest.mark.docker

NAME = "moving"
MODES = ("live", "stop-and-copy")
LINKS = "readlink /proc/1/cwd | base64; readlink /proc/1/fd/5 | base64"


def start(host: Host, image: str, *options: str, docker: tuple[str, ...] = ()) -> None:
    host.run(["docker", "run", "-d", "-i", "--name", NAME, *docker, image, *options])


def skip_without(tracker: TrackerChoice) -> None:
    try:
        check_tracker(tracker)
    except KernelLacks as error:
        pytest.skip(error.message)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", MODES)
def test_ten_times_there_and_back_under_typing(pair: Pair, recorder_image: str, mode: str) -> None:
    empty = {host.name: snapshot(host) for host in pair}
    start(pair[0], recorder_image)
    with Typist(pair, NAME, every=0.002) as typist:
        typist.wait_for(50)
        for trip in range(20):
            source, target = pair[trip % 2], pair[1 - trip % 2]
            summary = move(source, NAME, target, "--mode", mode, "--verify")
            assert summary["mode"] == mode
            typist.wait_for(20)
            assert "heap=intact" in typist.verify()
            left = leaks(empty[source.name], snapshot(source))
            left.pop("images", None)
            assert not left, f"trip {trip}: left on {source.name}: {left}"
        assert typist.moves == 20


def saved(host: Host) -> list[str]:
    """Return the images that its engine has been asked for so far."""
    words = ["docker", "events", "--since", "1", "--until", "0s", "--filter", "event=save"]
    return host.run([*words, "--format", "{{.Actor.ID}}"]).stdout.split()


def test_an_image_that_is_there_is_not_even_read(pair: Pair, recorder_image: str) -> None:
    """An engine writes all of an image to its disk before it tells any of it."""
    there, back = (len(saved(host)) for host in pair)
    start(pair[0], recorder_image)
    new = recorder_image not in images(pair[1])
    move(pair[0], NAME, pair[1])
    move(pair[1], NAME, pair[0])
    assert [len(saved(host)) for host in pair] == [there + new, back]


def test_an_image_that_goes_before_it_is_used_is_missed(pair: Pair, recorder_image: str) -> None:
    source, target = pair
    start(source, recorder_image)
    move(source, NAME, target)
    move(target, NAME, source)
    with gate(target, FrameType.PREPARED) as held, Command(source, NAME, "lmb") as command:
        held.wait()
        target.run(["docker", "rmi", recorder_image])
        held.open()
        assert "was removed from lmb" in command.must_fail(TransferError)
    move(source, NAME, target)


def images(host: Host) -> str:
    return host.run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]).stdout


@pytest.mark.parametrize("mode", MODES)
def test_what_arrived_is_a_container_like_any_other(
    pair: Pair, recorder_image: str, mode: str
) -> None:
    source, target = pair
    start(source, recorder_image, docker=("--restart", "unless-stopped", "-e", "COLOUR=blue"))
    source.run(["docker", "exec", NAME, "sh", "-c", "echo kept > /tmp/file; rm /etc/passwd"])
    before = inspect(source, NAME)
    with Typist(pair, NAME, every=0) as typist:
        typist.wait_for(100)
        move(source, NAME, target, "--mode", mode)
        typist.wait_for(10)
        after = inspect(target, NAME)
        target.run(["docker", "pause", NAME])
        assert inspect(target, NAME)["State"]["Paused"]
        target.run(["docker", "unpause", NAME])
        typist.wait_for(10)
    for field in ("Path", "Args", "Image", "Name", "AppArmorProfile"):
        assert after[field] == before[field]
    assert after["Config"] == before["Config"]
    assert after["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert after["State"]["Status"] == "running"
    diff = target.run(["docker", "diff", NAME]).stdout.splitlines()
    assert sorted(diff) == ["A /tmp/file", "C /etc", "C /tmp", "D /etc/passwd"]
    assert target.run(["docker", "exec", NAME, "cat", "/tmp/file"]).stdout == "kept\n"
    assert "ok " in target.run(["docker", "logs", NAME]).stdout
    target.run(["docker", "restart", "-t", "1", NAME])
    assert inspect(target, NAME)["State"]["Running"]
    assert target.run(["docker", "exec", NAME, "cat", "/tmp/file"]).stdout == "kept\n"
    command = target.run(["docker", "exec", NAME, "cat", "/proc/1/cmdline"]).stdout
    assert command.startswith("/usr/local/bin/recorder")
    target.run(["docker", "stop", "-t", "1", NAME])
    assert not inspect(target, NAME)["State"]["Running"]


def test_a_file_has_whatever_name_it_has(pair: Pair, recorder_image: str) -> None:
    """Of Latin-1, say: one that is open, one that is a socket, and that of the directory."""
    source, target = pair
    script = r"""cd /tmp; d=$(printf 'caf\351'); mkdir $d; cd $d; exec 5>$d; exec recorder"""
    start(source, recorder_image, "-c", script, docker=("--entrypoint", "sh"))
    assert answers(source, NAME, "1") == "ok 1 1 1"
    upper = source.path(inspect(source, NAME)["GraphDriver"]["Data"]["UpperDir"])
    directory = os.open(os.fsencode(upper) + b"/tmp/caf\xe9", os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(b"/proc/self/fd/%d/\xe9\x1b" % directory)
    finally:
        os.close(directory)
    summary = move(source, NAME, target)
    assert any("is a socket" in note for note in summary["notes"])
    links = target.run(["docker", "exec", NAME, "sh", "-c", LINKS]).stdout.split()
    name = base64.b64encode(b"/tmp/caf\xe9\n").decode()
    assert links == [name, base64.b64encode(b"/tmp/caf\xe9/caf\xe9\n").decode()]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_tracker_and_the_layout_that_were_asked_for_are_named(
    pair: Pair, recorder_image: str, tracker: TrackerChoice
) -> None:
    source, target = pair
    skip_without(tracker)
    start(source, recorder_image)
    with Typist(pair, NAME, every=0.002) as typist:
        typist.wait_for(50)
        before = len(typist.acked)
        options = ("--tracker", tracker, "--layout", "stub", "--verify")
        summary = move(source, NAME, target, *options)
        asked = ("live", tracker, "stub")
        assert (summary["mode"], summary["tracker"], summary["layout"]) == asked
        assert len(typist.acked) > before, "nobody could type while it moved"
        typist.wait_for(20)
        assert "heap=intact" in typist.verify()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_memory_may_be_moved_about_all_the_while(
    pair: Pair, recorder_image: str, tmp_path: Path, tracker: TrackerChoice
) -> None:
    """The program knows what each of its pages holds, and how long it was kept from moving one."""
    source, target = pair
    skip_without(tracker)
    wait = "while ! [ -e /tmp/mover ]; do sleep 0.1; done; exec /tmp/mover"
    start(source, recorder_image, "-c", wait, docker=("--entrypoint", "/bin/sh"))
    copy_to(tmp_path, ["mover"])
    put = "base64 -d >/tmp/draft && chmod +x /tmp/draft && mv /tmp/draft /tmp/mover"
    program = base64.encodebytes((tmp_path / "mover").read_bytes()).decode()
    source.run(["docker", "exec", "-i", NAME, "sh", "-c", put], input=program)
    before = ask_mover(source, 0)
    summary = move(source, NAME, target, "--tracker", tracker, "--verify")
    assert summary["tracker"] == tracker
    _, moves, wrong = ask_mover(target, before[1])
    assert moves > before[1]
    assert wrong == 0


def ask_mover(host: Host, moves: int) -> list[int]:
    """Return what it answers, once it says that it has made more moves."""
    deadline = time.monotonic() + pace.limit(60)
    while True:
        host.run(["docker", "exec", NAME, "sh", "-c", "echo how >/proc/1/fd/0"])
        logs = host.run(["docker", "logs", NAME])
        answers = [line.split() for line in logs.stdout.splitlines()]
        if answers and int(answers[-1][1]) > moves:
            return [int(word) for word in answers[-1]]
        assert time.monotonic() < deadline, (answers[-3:], logs.stderr)


@pytest.mark.parametrize(
    "options",
    [
        ("--add-host", "x:10.1.2.3", "--add-host", "y:host-gateway", "--add-host", "z:fe80::1"),
        ("--hostname", "first", "--domainname", "example.org", "--dns", "10.1.1.1"),
        ("--hostname", "first.example.org"),
        ("--network", "none"),
    ],
    ids=lambda options: options[0] + options[1][:5],
)
def test_what_docker_itself_writes_into_its_files_is_no_edit(
    pair: Pair, recorder_image: str, options: tuple[str, ...]
) -> None:
    """Such as the names of hosts, of which the container has changed none."""
    source, target = pair
    start(source, recorder_image, docker=options)
    move(source, NAME, target)
    move(target, NAME, source)
    hosts = source.run(["docker", "exec", NAME, "cat", "/etc/hosts"]).stdout
    assert options[1] == "none" or options[1].partition(":")[0] in hosts


def test_a_resolver_of_dockers_own_is_no_edit(pair: Pair, recorder_image: str) -> None:
    """20.10 leaves it, with no new digest, when the container is off the user's network again."""
    source, target = pair
    start(source, recorder_image)
    source.run(["docker", "network", "create", "passing"])
    try:
        source.run(["docker", "network", "connect", "passing", NAME])
        source.run(["docker", "network", "disconnect", "passing", NAME])
    finally:
        source.run(["docker", "network", "rm", "passing"])
    move(source, NAME, target)


def test_an_address_that_it_had_before_is_no_edit(pair: Pair, recorder_image: str) -> None:
    """20.10 leaves its line in /etc/hosts when the container joins the bridge again."""
    source, target = pair
    start(source, recorder_image)
    source.run(["docker", "network", "disconnect", "bridge", NAME])
    source.run(["docker", "run", "-d", "-i", "--name", "taker", recorder_image])
    try:
        source.run(["docker", "network", "connect", "bridge", NAME])
        move(source, NAME, target)
    finally:
        source.run(["docker", "rm", "-f", "taker"])


def test_a_port_whose_number_docker_chose(pair: Pair, recorder_image: str) -> None:
    """Another has it on the target: the user hears where the container is reached now."""
    source, target = pair
    start(source, recorder_image, docker=("-p", "80", "-p", "18099:81"))
    before = {port["HostPort"] for port in published(source, "80/tcp")}
    taken = [word for port in before for word in ("-p", f"{port}:80")]
    load_images(target)
    target.run(["docker", "run", "-d", "-i", "--name", "taker", *taken, recorder_image])
    try:
        notes = [note for note in move(source, NAME, target)["notes"] if "port" in note]
        assert len(notes) == 1, notes
        assert notes[0].startswith("port 80/tcp was published as ")
        old, new = notes[0].split(", and is now as ")
        assert all(f":{port}" in old for port in before)
        assert all(f":{port['HostPort']}" in new for port in published(target, "80/tcp"))
    finally:
        target.run(["docker", "rm", "-f", "taker"])


def published(host: Host, port: str) -> list[dict[str, str]]:
    """Return where a port of the container is reached, as Docker has it."""
    found: list[dict[str, str]] = inspect(host, NAME)["NetworkSettings"]["Ports"][port]
    return found
