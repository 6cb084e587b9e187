"""Standard streams that a program has opened again, and descriptors that find little room."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from livemig.errors import NotCarried
from livemig.system import procfs
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.loopback import Mover

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

STATUS = os.O_ACCMODE | os.O_NONBLOCK
ANSWERS = """
import os, sys
say = lambda text: os.write(1, text.encode() + b"\\n")
say("ready")
while line := os.read({number}, 100):
    say(f"got {{line.decode().strip()}}")
say("over")
"""


def program(start: Start, before: str, number: int = 0) -> App:
    """Start a program that does something ``before`` it reads descriptor ``number``."""
    python = Path(sys.executable).resolve()
    code = f"import os\n{before}\n{ANSWERS.format(number=number)}"
    # In the locale C it maps no file that is shared.
    app = start("/usr/bin/env", "LC_ALL=C", python, "-I", "-S", "-c", code)
    assert app.answer() == "ready"
    return app


def flags(app: App) -> dict[int, int]:
    numbers = procfs.descriptors(app.pid)
    return {n: int(procfs.descriptor_info(app.pid, n)["flags"], 8) & STATUS for n in numbers}


@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
def test_each_opening_of_a_stream_has_its_own_flags(start: Start, move: Mover, ended: bool) -> None:
    """As a log that is a link to /dev/stdout; what is unread is there once, though read by two."""
    app = program(
        start,
        'os.open("/proc/self/fd/0", os.O_RDONLY | os.O_NONBLOCK)\n'
        'os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK)\n'
        'os.open("/proc/self/fd/2", os.O_RDWR)',
    )
    before = flags(app)
    assert len(before) == 6
    assert len(set(before.values())) > 3
    moving = move(app)
    moving.round()
    moving.freeze()
    app.send(b"word\n")
    if ended:
        app.pipes[0].close()
    app = moving.switch()
    assert ended or flags(app) == before
    assert app.answer() == "got word"
    if ended:
        assert app.answer() == "over"
        assert app.wait() == 0
    else:
        assert app.ask("more") == "got more"


def test_an_input_that_is_open_for_writing_does_not_end(start: Start, move: Mover) -> None:
    """`exec 0<>/dev/stdin` is there for that."""
    app = program(
        start, 'new = os.open("/proc/self/fd/0", os.O_RDWR)\nos.dup2(new, 0)\nos.close(new)'
    )
    assert flags(app)[0] == os.O_RDWR
    app = move(app).run()
    assert flags(app)[0] == os.O_RDWR
    assert app.ask("word") == "got word"
    app.pipes[0].close()
    app.settle()


FILES = "for _ in range({count}):\n    os.open('/etc/passwd', os.O_RDONLY)"


def test_more_files_than_the_held_process_might_open(start: Start, move: Mover) -> None:
    """Its soft limit is that of the container, which may be low, or have been raised inside."""
    app = program(start, FILES.format(count=100))
    before = flags(app)
    moving = move(app)
    _, hard = resource.prlimit(moving.target.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(moving.target.pid, resource.RLIMIT_NOFILE, (64, hard))
    limits = resource.prlimit(app.pid, resource.RLIMIT_NOFILE)
    app = moving.run()
    assert flags(app) == before
    assert resource.prlimit(app.pid, resource.RLIMIT_NOFILE) == limits
    assert app.ask("word") == "got word"


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (FILES.format(count=201), "has 204 files open"),
        ("os.dup2(0, 1010)", "has descriptor 1010, of those which the move itself needs"),
    ],
    ids=["many", "high"],
)
def test_what_finds_no_room_is_refused_before_it_is_stopped(
    start: Start, move: Mover, before: str, words: str
) -> None:
    app = program(start, before)
    moving = move(app)
    moving.round()
    moving.freeze()
    with pytest.raises(NotCarried, match=words):
        moving.state()
    moving.give_up()
    assert app.ask("word") == "got word"
