"""The number recorder: what it answers, what it notices, how it is packed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import NothingLeft
from tests.hosts import RECORDER, Host, load_images
from tests.recorder import Model

pytestmark = pytest.mark.docker

Pair = tuple[Host, Host]


def _answers(host: Host, typed: str, *options: str) -> list[str]:
    argv = ["docker", "run", "-i", "--rm", RECORDER, *options]
    return host.run(argv, input=typed).stdout.splitlines()


@pytest.fixture
def host(hosts: Pair, recorder_image: str) -> Host:
    assert recorder_image
    return hosts[0]


def test_each_number_is_acknowledged_with_its_rank(host: Host, nothing_left: NothingLeft) -> None:
    assert _answers(host, "50\n20\n90\n20\n") == [
        "ready",
        "ok 1 50 1",
        "ok 2 20 1",
        "ok 3 90 3",
        "ok 4 20 1",
    ]
    nothing_left.check()


def test_its_report_agrees_with_the_model(host: Host) -> None:
    numbers = [7, 3, 2**62, 1, *range(10, 2000, 3)]
    model = Model()
    for number in numbers:
        model.record(number)
    typed = "".join(f"{number}\n" for number in numbers)
    assert _answers(host, f"{typed}0\n")[-1] == f"{model.report()} heap=intact"
    assert _answers(host, "0\n")[-1] == f"{Model().report()} heap=intact"


@pytest.mark.parametrize("line", ["x", "", "1x", "99999999999999999999", "1.5"])
def test_what_is_no_number_is_refused(host: Host, line: str) -> None:
    assert _answers(host, f"{line}\n4\n")[1:] == [f"error: not a number: {line}", "ok 1 4 1"]


def test_wrong_options_are_refused(host: Host) -> None:
    for options in (["--heap"], ["--heap", "x"], ["--rewrite", "all"], ["--per-mille", "0"], ["x"]):
        done = host.run(["docker", "run", "--rm", RECORDER, *options], check=False)
        assert done.returncode == 2
        assert "usage: recorder" in done.stderr


@pytest.mark.parametrize("which", ["fixed", "random"])
def test_a_rewritten_heap_is_intact(host: Host, which: str) -> None:
    options = ["--heap", "64", "--rewrite", which, "--per-mille", "20", "--every-ms", "1"]
    with _started(host, *options) as (_, stdin, stdout):
        for _ in range(3):
            assert _asked(stdin, stdout, "0").endswith("heap=intact")


def test_a_damaged_heap_is_noticed(host: Host) -> None:
    with _started(host, "--heap", "16") as (pid, stdin, stdout):
        _flip_a_byte_of_the_heap(pid)
        assert _asked(stdin, stdout, "0").endswith("heap=damaged")


def test_a_stop_shows_as_a_gap_between_ticks(host: Host) -> None:
    with _started(host, "--tick", "/ticks") as (pid, stdin, stdout):
        quiet = _gap(_asked(stdin, stdout, "-1"))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        stopped = _gap(_asked(stdin, stdout, "-1"))
        os.kill(pid, signal.SIGUSR1)
        anew = _gap(stdout.readline())
    # Other programs may hold it up too, but not for as long.
    assert quiet < 2_900_000 <= stopped < 60_000_000
    assert anew < 2_900_000


def test_ticks_come_each_millisecond(host: Host) -> None:
    with _started(host, "--tick", "-") as (_, _, stdout):
        times = [int(stdout.readline().split()[1]) for _ in range(500)]
    assert times == sorted(times)
    assert 499 * 1_000_000 * 0.5 < times[-1] - times[0] < 499 * 1_000_000 * 10


def test_the_base_is_a_layer_of_its_own(host: Host, hosts: Pair) -> None:
    load_images(hosts[1], "livemig/base:latest")
    base = hosts[1].api().inspect_image("livemig/base:latest")["RootFS"]["Layers"]
    layers = host.api().inspect_image(RECORDER)["RootFS"]["Layers"]
    hosts[1].api().remove_image("livemig/base:latest")
    assert len(base) == 1
    assert layers[:1] == base
    assert len(layers) == 2


@contextmanager
def _started(host: Host, *options: str) -> Iterator[tuple[int, IO[str], IO[str]]]:
    argv = ["docker", "run", "-i", "--rm", "--name", "tried", RECORDER, *options]
    with host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            pid = host.run(["docker", "inspect", "-f", "{{.State.Pid}}", "tried"]).stdout
            yield host.outer_pid(int(pid)), process.stdin, process.stdout
        finally:
            host.run(["docker", "rm", "-f", "tried"])


def _asked(stdin: IO[str], stdout: IO[str], line: str) -> str:
    stdin.write(f"{line}\n")
    stdin.flush()
    return stdout.readline().rstrip("\n")


def _flip_a_byte_of_the_heap(pid: int) -> None:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    sizes = [
        (int(end, 16) - int(start, 16), int(start, 16))
        for start, end in (line.split()[0].split("-") for line in maps if " rw-p " in line)
    ]
    size, start = max(sizes)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(start + size // 2)
        byte = memory.read(1)[0]
        memory.seek(start + size // 2)
        memory.write(bytes([byte ^ 1]))


def _gap(report: str) -> int:
    found = re.search(r"gap_us=(\d+)", report)
    assert found, report
    return int(found[1])
