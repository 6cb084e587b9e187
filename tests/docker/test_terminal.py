"""`docker run -it` moves: the shell, its line, its terminal, and whoever types on it."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from livemig.errors import Cancelled, NotCarried
from livemig.frames import FrameType
from tests import pace
from tests.docker import cutter
from tests.docker.commands import Command
from tests.docker.consoles import DETACH, Console
from tests.docker.killers import stoppable, strike
from tests.docker.moves import Pair, inspect, move, refused, shown, slow_link, wrapped
from tests.docker.test_lost_link import cut_happened, plan
from tests.hosts import Host

pytestmark = [pytest.mark.docker, pytest.mark.timeout(90)]

NAME = "shell"
PROMPT = b"# "
RATE = 24e6
CTRL_A, CTRL_C, ERASE = b"\x01", b"\x03", b"\x7f"


def logged(host: Host, words: str) -> str:
    """Return what Docker has logged of it, once these words have come there."""
    return shown(host, ["docker", "logs", NAME], words)


def bash(image: str, *words: str, options: tuple[str, ...] = ("-it",)) -> list[str]:
    return ["run", *options, "--name", NAME, "--entrypoint", "bash", image, "--norc", *words]


def test_a_shell_in_the_middle_of_a_line(pair: Pair, recorder_image: str) -> None:
    source, target = pair
    with Console(source, *bash(recorder_image), size=(101, 33)) as console:
        console.until(PROMPT)
        # Docker's command tells the size once the container runs.
        console.type(b"until stty size 2>&1 | grep -q 101; do :; done\r")
        console.until(b"done\r\n")
        console.until(PROMPT)
        console.type(b"stty -a; tty; echo size $(stty size)\r")
        before = console.until(b"size 33 101\r\n")
        console.until(PROMPT)
        console.type(b"cho on'c'e-$((40 + 2))" + CTRL_A)
        console.until(b"2))")
        move(source, NAME, target)
        console.end()
        assert b"once-42" not in console.all
    with Console(target, "attach", NAME, size=(101, 33)) as console:
        console.type(b"e")
        console.type(b"\r")
        console.until(b"once-42\r\n")
        console.until(PROMPT)
        console.type(b"stty -a; tty; echo size $(stty size)\r")
        after = console.until(b"size 33 101\r\n")
        assert after[after.index(b"speed") :] == before[before.index(b"speed") :]
        console.until(PROMPT)
        console.resize(60, 20)
        console.type(b"sleep 60\r")
        console.until(b"sleep 60\r\n")
        refused(target, NAME, source.name, NotCarried, "2 processes", "sleep")
        console.type(CTRL_C)
        console.until(b"^C")
        console.until(PROMPT)
        console.type(b"echo st'at'us $? $(stty size) $-\r")
        assert console.until(b"\r\nstatus 130 20 60 ")
        assert b"m" in console.until(b"\r\n"), "job control"
        console.until(PROMPT)
        console.type(DETACH)
        console.until(b"read escape sequence")
        console.end()
    move(target, NAME, source, "--verify")
    with Console(source, "attach", NAME) as console:
        console.type(b"exit 7\r")
        console.until(b"exit")
        assert console.end() == 7


def test_half_a_line_in_canonical_mode(pair: Pair, recorder_image: str) -> None:
    """`cat` with whole lines that it has not read, and one that is still being edited; no -i."""
    source, target = pair
    words = ("-dit", "--stop-signal", "KILL")
    entry = ["--name", NAME, "--entrypoint", "cat", recorder_image]
    source.run(["docker", "run", *words, *entry])
    with Console(source, "attach", NAME) as console:
        console.type(b"whole\rhalx")
        console.until(b"halx")
        move(source, NAME, target)
        console.end()
        assert console.all.count(b"whole") == 2
    with Console(target, "attach", NAME) as console:
        console.type(ERASE + b"f\r")
        console.until(b"half\r\n")
    assert logged(target, "half\n") == "\b \bf\nhalf\n", "nothing is echoed twice"


def test_half_a_line_where_the_connection_is_lost(pair: Pair, recorder_image: str) -> None:
    """The peer that takes the copy over puts in what was typed, as the one that made it would."""
    source, target = pair
    entry = ["--name", NAME, "--entrypoint", "cat", recorder_image]
    source.run(["docker", "run", "-dit", "--stop-signal", "KILL", *entry])
    with wrapped(target, cutter), Console(source, "attach", NAME) as console:
        console.type(b"halx")
        console.until(b"halx")
        plan(target, FrameType.COMMIT)
        move(source, NAME, target)
        assert cut_happened(target)
    with Console(target, "attach", NAME) as console:
        console.type(ERASE + b"f\r")
        console.until(b"half\r\n")
    assert logged(target, "half\n") == "\b \bf\nhalf\n"


def test_half_a_line_that_the_dead_peer_had_not_taken(pair: Pair, recorder_image: str) -> None:
    """The one that recovers the move takes it."""
    source, target = pair
    entry = ["--name", NAME, "--entrypoint", "cat", recorder_image]
    source.run(["docker", "run", "-dit", "--stop-signal", "KILL", *entry])
    with stoppable(pair), Console(source, "attach", NAME) as console:
        console.type(b"halx")
        console.until(b"halx")
        strike(pair, NAME, "source >committed", "source's peer")
        target.run(["docker", "livemig", "recover"])
    with Console(target, "attach", NAME) as console:
        console.type(ERASE + b"f\r")
        console.until(b"half\r\n")


def test_a_terminal_without_standard_input(pair: Pair, recorder_image: str) -> None:
    source, target = pair
    loop = "while ! read -t 0.1 x; do :; done"
    source.run(["docker", *bash(recorder_image, "-c", loop, options=("-dt",))])
    move(source, NAME, target)
    assert target.run(["docker", "exec", NAME, "sh", "-c", "echo >/proc/1/fd/0"]).stdout == ""
    assert inspect(target, NAME)["Config"]["OpenStdin"] is False
    assert logged(target, "\n") == "\n"


def test_a_move_that_is_undone(pair: Pair, recorder_image: str) -> None:
    source = pair[0]
    with Console(source, *bash(recorder_image)) as console:
        console.until(PROMPT)
        console.type(b"x=$(head -c 10000000 /dev/urandom | base64)\r")
        console.until(b"base64)\r\n")
        console.until(PROMPT)
        console.type(b"echo ha'l'x")
        console.until(b"x")
        mode = ("--mode", "stop-and-copy")  # all is sent while it stands still
        with (
            slow_link(source, RATE) as env,
            Command(source, *mode, NAME, "lmb", env=env) as command,
        ):
            command.wait_for("freeze")
            console.type(ERASE + b"f; stty -a")
            command.interrupt()
            command.must_fail(Cancelled)
        console.type(b"\r")
        console.until(b"half\r\n")
        assert b"icanon" in console.until(PROMPT)
        console.type(b"exit\r")
        console.end()


AHEAD = 50  # lines that are typed and not answered yet
READERS = {
    "canonical": ['while IFS= read -r line; do echo "<$line>"; done'],
    "readline": [],
}


@pytest.mark.parametrize(
    ("reader", "mode"),
    [
        ("canonical", "live"),
        ("readline", "live"),
        pytest.param("canonical", "stop-and-copy", marks=pytest.mark.long),
        pytest.param("readline", "stop-and-copy", marks=pytest.mark.long),
    ],
)
def test_typing_all_the_time(pair: Pair, recorder_image: str, reader: str, mode: str) -> None:
    """What a screen has shown of the typing arrives, once and in order; nothing comes twice."""
    source, target = pair
    script = READERS[reader]
    key = b"%06d\r" if script else b"echo '<'%06d'>'\r"
    words = ("-c", *script) if script else ()
    source.run(["docker", *bash(recorder_image, *words, options=("-dit",))])
    with Console(source, "attach", NAME) as console:
        stop = threading.Event()
        typist = threading.Thread(target=type_on, args=(console, key, stop))
        console.type(key % 0)
        console.until(b"<000000>")
        typist.start()
        try:
            console.until(b"<000050>")
            with ThreadPoolExecutor(1) as worker:
                moving = worker.submit(move, source, NAME, target, "--mode", mode)
                try:
                    console.end(pace.limit(90))  # it reads: a full pipe would mix echo and answers
                finally:
                    moving.result()
        finally:
            stop.set()
            typist.join()
        shown = console.all
    with Console(target, "attach", NAME) as console:
        console.type(b"\r")
        console.type(key % 999999)
        console.until(b"<999999>")
    log = logged(target, "<999999>").encode()
    numbers = [int(each) for each in re.findall(rb"<(\d{6})>\r?\n", shown + log)]
    assert numbers[-1] == 999999
    assert numbers[:-1] == list(range(len(numbers) - 1)), (shown[-400:], log[:400])
    if script:
        # At its end the command lets its own terminal echo again: that is out of order.
        echoed = {int(each) for each in re.findall(rb"(?<!<)(\d{6})\r\n", shown)}
        taken = next(number for number in range(len(echoed) + 1) if number not in echoed)
        assert 50 < taken <= len(numbers) - 1, "a line that its terminal had taken is lost"


def type_on(console: Console, key: bytes, stop: threading.Event) -> None:
    """Type lines until nobody listens any more, and no faster than they are answered."""
    number, looked, answered = 1, 0, 0
    while not stop.wait(0.002):
        seen = console.all
        answered += seen.count(b">\r\n", looked)
        looked = max(len(seen) - 2, 0)
        if number - answered > AHEAD:
            continue
        try:
            console.type(key % number)
        except (OSError, AssertionError):
            return
        number += 1
