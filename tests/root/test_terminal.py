"""A program on a terminal moves: what was typed, and how the terminal was, is there as it was."""

from __future__ import annotations

import fcntl
import os
import termios
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from livemig import terminal, typed
from livemig.errors import LivemigError, NotCarried, ProtocolError, StateMismatch
from livemig.model import Terminal, Typed
from livemig.stub import hold_path
from livemig.system import handles, procfs, ttys
from tests.root.loopback import Move
from tests.root.screens import ScreenApp

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

NR_READ, NR_PAUSE = 0, 34
N_NULL = 27  # a line discipline that every kernel has (include/uapi/linux/tty.h)
Program = Callable[..., ScreenApp]
Begin = Callable[[ScreenApp], Move]
CTRL_C, CTRL_D, CTRL_Q, CTRL_S, CTRL_V, ERASE = b"\x03", b"\x04", b"\x11", b"\x13", b"\x16", b"\x7f"


@pytest.fixture
def program(scope: ExitStack, programs: Path) -> Program:
    """Start the program that says what it reads."""

    def starter(*words: str) -> ScreenApp:
        app = ScreenApp([programs / "terminal", *words])
        scope.callback(app.close)
        app.until(b"ready\r\n")
        app.settle(NR_PAUSE if "nobody" in words else NR_READ)
        return app

    return starter


@pytest.fixture
def begin(scope: ExitStack) -> Begin:
    """Begin a move of a program on a terminal."""

    def beginner(app: ScreenApp) -> Move:
        target = ScreenApp([hold_path()])
        scope.callback(target.close)
        target.settle(NR_PAUSE)
        found = Move(app, target)
        scope.callback(found.close)
        return found

    return beginner


def moved(moving: Move) -> ScreenApp:
    found = moving.switch()
    assert isinstance(found, ScreenApp)
    return found


def frozen(begin: Begin, app: ScreenApp, *keys: bytes) -> ScreenApp:
    """Move a program on whose terminal is typed while it stands still."""
    moving = begin(app)
    moving.freeze()
    for each in keys:
        app.type(each)
    return moved(moving)


def said(app: ScreenApp, *lines: bytes) -> None:
    for line in lines:
        app.until(line + b"\r\n")


# What was typed


def test_whole_lines_arrive_line_by_line(program: Program, begin: Begin) -> None:
    app = frozen(begin, program(), b"one\ntwo\n", b"\n")
    app.type(b"three\n")
    said(app, b"[one\\0a]", b"[two\\0a]", b"[\\0a]", b"[three\\0a]")


def test_a_line_goes_on_being_edited(program: Program, begin: Begin) -> None:
    app = frozen(begin, program(), b"whole\nhalx")
    app.type(ERASE + b"f\n")
    said(app, b"[whole\\0a]", b"[half\\0a]")


def test_an_end_of_input_ends_what_it_ended(program: Program, begin: Begin) -> None:
    app = frozen(begin, program(), b"part" + CTRL_D, CTRL_D, b"line\nend\n")
    said(app, b"[part]", b"[]", b"[line\\0a]", b"[end\\0a]")
    assert app.wait() == 0


def test_what_was_quoted_stays_so(program: Program, begin: Begin) -> None:
    keys = [CTRL_V + each for each in (CTRL_C, CTRL_D, CTRL_V, b"\n", ERASE, CTRL_S, b"\x01")]
    app = frozen(begin, program(), b"".join(keys) + b"\n", b"".join(keys))
    app.type(b"\n")
    shown = b"[\\03\\04\\16\\0a\\7f\\13\\01\\0a]"
    said(app, shown, shown)


def test_a_quote_waits_for_its_character(program: Program, begin: Begin) -> None:
    app = frozen(begin, program(), b"a" + CTRL_V)
    app.type(CTRL_C)
    app.type(b"\n")
    said(app, b"[a\\03\\0a]")


@pytest.mark.parametrize(
    ("keys", "rest", "shown"),
    [
        (b"one\ntwo\nhal", b"f\n", (b"[one\\0a]", b"[two\\0a]", b"[half\\0a]")),
        (b"a" + CTRL_V, CTRL_C + b"\n", (b"[a\\03\\0a]",)),
        (b"end" + CTRL_D, b"\n", (b"[end]", b"[\\0a]")),
    ],
)
def test_what_two_peers_put_in_is_there_once(
    program: Program,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
    keys: bytes,
    rest: bytes,
    shown: tuple[bytes, ...],
) -> None:
    """The first was killed before it could say that it had."""
    app = program()
    moving = begin(app)

    def put_twice(found: Typed) -> None:
        pty = terminal.find(moving.target.pid)
        assert pty is not None
        with closing(pty):
            typed.put(pty, found)
            assert typed.put_again(pty, found) == b""

    monkeypatch.setattr(moving.incoming, "put_typed", put_twice)
    moving.freeze()
    app.type(keys)
    target = moved(moving)
    target.type(rest)
    said(target, *shown)
    assert target.wait_for_nothing() == b""


def test_another_end_of_line(program: Program, begin: Begin) -> None:
    app = program()
    change(app, termios.VEOL, b";")
    app = frozen(begin, app, b"a;b" + CTRL_V + b";c;d" + CTRL_D + b"e;", b"f")
    app.type(b";")
    said(app, b"[a;]", b"[b;c;]", b"[d]", b"[e;]", b"[f;]")


def test_raw_input_arrives(program: Program, begin: Begin) -> None:
    """Two bytes wait for the third, which VMIN asks for."""
    app = frozen(begin, program("raw"), b"\x03\r")
    app.type(b"\xff")
    said(app, b"[\\03\\0d\\ff]")


def test_as_much_as_a_terminal_holds(program: Program, begin: Begin) -> None:
    lines = [b"%04d" % number for number in range(800)]
    app = frozen(begin, program(), *(line + b"\n" for line in lines), b"part")
    app.type(b"ial\n")
    said(app, *(b"[" + line + b"\\0a]" for line in lines), b"[partial\\0a]")


def test_more_than_a_terminal_holds(program: Program, begin: Begin) -> None:
    """The rest waits where a master's bytes wait, here and there."""
    lines = [b"%04d" % number for number in range(2000)]
    app = program()
    silence(app)
    app = frozen(begin, app, b"".join(line + b"\n" for line in lines))
    said(app, *(b"[" + line + b"\\0a]" for line in lines))


def test_nothing_is_echoed_twice(program: Program, begin: Begin) -> None:
    app = frozen(begin, program(), b"first\n", b"sec")
    assert app.until(b"]\r\n") == b"first\r\nsec[first\\0a]\r\n"
    app.type(b"ond\n")
    assert app.until(b"]\r\n") == b"ond\r\n[second\\0a]\r\n"


def test_what_is_typed_after_the_commit_is_typed_there(program: Program, begin: Begin) -> None:
    """Raw bytes go over, and are edited and echoed there, once."""
    moving = begin(program())
    moving.freeze()
    moving.before_kill = lambda: moving.source.send(b"ab")
    moving.after_commit = lambda: moving.source.send(ERASE + b"c\rd")
    app = moved(moving)
    assert app.until(b"]\r\n") == b"ab\b \bc\r\nd[ac\\0a]\r\n"
    app.type(b"\n")
    said(app, b"[d\\0a]")


def test_a_key_that_signals_after_the_commit(program: Program, begin: Begin) -> None:
    moving = begin(program())
    moving.freeze()
    moving.after_commit = lambda: moving.source.send(CTRL_C)
    app = moved(moving)
    app.until(b"<INT>\r\n")


def test_what_is_typed_after_the_end_is_typed_there(program: Program, begin: Begin) -> None:
    """Whoever types does not know yet; the end of the process has not hung the terminal up."""
    moving = begin(program())
    moving.freeze()
    moving.after_end = lambda: moving.source.send(b"late\r")
    app = moved(moving)
    said(app, b"[late\\0a]")


def test_nobody_types_in_between(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a terminal is emptied its keys wait: none could be told from those before or after."""
    app = program()
    app.cgroup.freezer.freeze()
    app.type(b"before\rpar")
    real, waiting = ttys.set_settings, 0

    def type_and_set(descriptor: int, wanted: ttys.Settings) -> None:
        nonlocal waiting
        with pytest.raises(BlockingIOError):
            app.send(b"between\r")
        waiting += 1
        real(descriptor, wanted)

    pty = terminal.find(app.pid)
    assert pty is not None
    with closing(pty):
        monkeypatch.setattr(ttys, "set_settings", type_and_set)
        found = typed.take(pty, 0, app.pid)
        assert (found.lines, found.partial, waiting) == ((b"before\n",), b"par", 2)
        app.send(b"after\r")
        assert next(typed.LateTyping(pty).rest(1.0)) == b"after\r"
    app.cgroup.freezer.thaw()


def test_a_copy_that_is_lost_after_the_commit(program: Program, begin: Begin) -> None:
    """The source runs on: what was taken is in its terminal again, before what came since."""
    app = program()
    before = app.settings()
    moving = begin(app)
    moving.freeze()
    app.type(b"one\ntwx")
    app.until(b"twx")
    moving.state()
    moving.outgoing.seal()
    assert moving.outgoing.typed() is not None
    assert app.settings() != before
    app.type(ERASE + b"o\rth")
    moving.give_up()
    assert app.settings() == before
    said(app, b"[one\\0a]", b"[two\\0a]")
    app.type(b"ree\n")
    said(app, b"[three\\0a]")


def test_a_move_that_is_undone_leaves_all_as_it_was(program: Program, begin: Begin) -> None:
    app = program()
    before = app.settings()
    moving = begin(app)
    moving.freeze()
    app.type(b"one\ntwx")
    moving.state()
    moving.give_up()
    assert app.settings() == before
    app.type(ERASE + b"o\n")
    said(app, b"[one\\0a]", b"[two\\0a]")
    assert app.wait_for_nothing() == b""


# The terminal itself


def silence(app: ScreenApp) -> None:
    found = termios.tcgetattr(app.master)
    found[3] &= ~termios.ECHO
    termios.tcsetattr(app.master, termios.TCSANOW, found)


def change(app: ScreenApp, control: int, character: bytes) -> None:
    found = termios.tcgetattr(app.master)
    found[6][control] = character
    termios.tcsetattr(app.master, termios.TCSANOW, found)


@pytest.mark.parametrize("words", [[], ["raw"]], ids=["canonical", "raw"])
def test_its_settings_are_the_same(program: Program, begin: Begin, words: list[str]) -> None:
    app = program(*words)
    app.resize(101, 33)
    app.until(b"<101x33>\r\n")
    app.settle()
    os.chmod(app.slave_name, 0o642)
    os.chown(app.slave_name, 7, 8)
    before = app.settings(), app.size()
    app = frozen(begin, app)
    assert (app.settings(), app.size()) == before
    status = os.stat(app.slave_name)
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o642, 7, 8)
    assert ttys.foreground_group(app.master) == ttys.session(app.master) == app.pid
    assert app.wait_for_nothing() == b"", "it was told of a size that is not new"
    app.resize(44, 22)
    app.until(b"<44x22>\r\n")


def test_a_size_that_changes_on_the_way(program: Program, begin: Begin) -> None:
    app = program()
    moving = begin(app)
    moving.freeze()
    moving.before_kill = lambda: app.resize(90, 30)
    app = moved(moving)
    app.until(b"<90x30>\r\n")
    assert app.size() == (90, 30)


@pytest.mark.parametrize("key", [b"\x03", b"\x1c", b"\x1a"], ids=["INT", "QUIT", "TSTP"])
def test_a_key_that_signals_while_it_is_frozen(
    program: Program, begin: Begin, key: bytes, request: pytest.FixtureRequest
) -> None:
    app = program()
    moving = begin(app)
    moving.freeze()
    moving.before_kill = lambda: app.type(b"gone" + key + b"kept")
    app = moved(moving)
    app.until(b"<" + request.node.callspec.id.encode() + b">\r\n")
    app.type(b"\n")
    said(app, b"[kept\\0a]")


def test_a_key_that_signals_before_it_is_read(program: Program, begin: Begin) -> None:
    app = frozen(begin, program(), CTRL_C)
    app.until(b"<INT>\r\n")
    assert app.wait_for_nothing() == b""


def test_output_that_ctrl_s_has_stopped(program: Program, begin: Begin) -> None:
    app = frozen(begin, program(), b"one\n", CTRL_S)
    app.screen()
    assert app.wait_for_nothing() == b""
    app.type(CTRL_Q)
    said(app, b"[one\\0a]")


def test_output_that_a_call_has_stopped(program: Program, begin: Begin) -> None:
    app = program()
    with open(app.slave_name, "r+b", buffering=0) as slave:
        termios.tcflow(slave, termios.TCOOFF)
    app = frozen(begin, app, b"one\n")
    app.type(CTRL_Q)
    app.screen()
    assert app.wait_for_nothing() == b""
    with open(app.slave_name, "r+b", buffering=0) as slave:
        termios.tcflow(slave, termios.TCOON)
    said(app, b"[one\\0a]")


def test_it_is_open_in_several_ways(program: Program, begin: Begin) -> None:
    app = program("more")
    before = descriptors(app)
    assert len(set(before.values())) == 3
    app = frozen(begin, app)
    assert descriptors(app) == before
    same = handles.same_description
    assert same(app.pid, 0, app.pid, 1)
    assert same(app.pid, 1, app.pid, 7)
    assert not same(app.pid, 0, app.pid, 5)
    app.type(b"all\n")
    said(app, b"console", b"slave", b"copy")


def descriptors(app: ScreenApp) -> dict[int, tuple[str, str]]:
    """Return the name and the flags of each, its own terminal named alike everywhere."""
    found = {}
    for number in procfs.descriptors(app.pid):
        name = os.readlink(f"/proc/{app.pid}/fd/{number}").replace(app.slave_name, "its terminal")
        found[number] = name, procfs.descriptor_info(app.pid, number)["flags"]
    return found


def test_one_that_gave_its_terminal_up(program: Program, begin: Begin) -> None:
    app = frozen(begin, program("detached"), b"one\n")
    said(app, b"[one\\0a]")
    assert ttys.session(app.master) == 0
    assert procfs.read_stat(app.pid)[6] == "0"
    app.type(CTRL_C)
    assert b"INT" not in app.wait_for_nothing()


def test_exclusive_use(program: Program, begin: Begin) -> None:
    app = program()
    slave = ttys.open_slave(app.master, os.O_RDWR)
    ttys.set_exclusive(slave)
    os.close(slave)
    app = frozen(begin, app)
    slave = ttys.open_slave(app.master, os.O_RDWR)
    assert ttys.exclusive(slave)
    os.close(slave)


def test_it_moves_to_and_fro(program: Program, begin: Begin) -> None:
    app = program()
    for turn in range(4):
        app = frozen(begin, app, b"turn", b" %d\nrest" % turn)
        app.type(b"\n")
        said(app, b"[turn\\20%d\\0a]" % turn, b"[rest\\0a]")
        app.settle()


# What is refused


def lock(app: ScreenApp) -> None:
    fcntl.ioctl(app.master, termios.TIOCSLCKTRMIOS, b"\1" * 64)


def change_discipline(app: ScreenApp) -> None:
    slave = ttys.open_slave(app.master, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(slave, termios.TIOCSETD, N_NULL.to_bytes(4, "little"))
    os.close(slave)


def nothing(app: ScreenApp) -> None:
    assert app.pid


@pytest.mark.parametrize(
    ("words", "spoil", "said"),
    [
        (["nobody"], nothing, "foreground group"),
        ([], lock, "settings of its terminal are locked"),
        ([], change_discipline, "another line discipline than N_TTY"),
    ],
    ids=["foreground", "locked", "discipline"],
)
def test_what_is_refused(
    program: Program, words: list[str], spoil: Callable[[ScreenApp], None], said: str
) -> None:
    app = program(*words)
    spoil(app)
    with pytest.raises(NotCarried, match=said), terminal.looked_at(app.pid):
        pass


def five_bits(found: Terminal) -> Terminal:
    """Ask for such characters, of which a pseudo-terminal makes those of eight."""
    settings = ttys.Settings.unpack(found.settings)
    return replace(found, settings=replace(settings, cflag=settings.cflag & ~termios.CSIZE).pack())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda found: replace(found, settings=b"x"), ProtocolError, "that is not valid"),
        (lambda found: replace(found, window=b"x"), ProtocolError, "a window size of 1 bytes"),
        (five_bits, StateMismatch, "the terminal took the settings"),
    ],
    ids=["settings", "window", "not-taken"],
)
def test_a_terminal_that_cannot_be_is_refused(
    program: Program, change: Callable[[Terminal], Terminal], error: type[LivemigError], said: str
) -> None:
    app = program()
    pty = terminal.find(app.pid)
    assert pty is not None
    with closing(pty), pytest.raises(error, match=said):
        terminal.apply(pty, change(terminal.read(app.pid, pty)))
