"""What is typed for a terminal to be as another was; the terminals themselves want root."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from livemig.errors import ProtocolError
from livemig.model import Typed
from livemig.system import ttys
from livemig.system.ttys import Settings
from livemig.terminal import Pty
from livemig.typed import CAPACITY, Keystrokes, keystrokes, plain, put, put_again

CONTROLS = bytes([3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0])
USUAL = Settings(0o2400, 5, 0o277, 0o105073, 0, CONTROLS, 38400, 38400)
RAW = replace(USUAL, iflag=0, lflag=0)
END, QUOTE = b"\x01", b"\x02"


def ending_with(character: bytes) -> Settings:
    controls = bytearray(CONTROLS)
    controls[ttys.VEOL2] = character[0]
    return replace(USUAL, controls=bytes(controls))


def test_settings_survive_the_struct() -> None:
    assert Settings.unpack(USUAL.pack()) == USUAL
    assert len(USUAL.pack()) == 44
    with pytest.raises(ValueError, match="44 bytes"):
        Settings.unpack(bytes(43))


def test_plain_settings_echo_and_signal_nothing() -> None:
    found = plain(USUAL)
    assert (found.iflag, found.lflag) == (0, ttys.ICANON | ttys.IEXTEN)
    assert (found.oflag, found.cflag, found.ospeed) == (USUAL.oflag, USUAL.cflag, USUAL.ospeed)
    assert found.controls[ttys.VEOF : ttys.VEOF + 1] == END
    assert found.controls[ttys.VLNEXT : ttys.VLNEXT + 1] == QUOTE
    assert sum(1 for each in found.controls if each) == 3
    assert plain(RAW).lflag == 0
    assert plain(RAW).controls[ttys.VMIN] == 1


@pytest.mark.parametrize(
    ("typed", "settings", "keys"),
    [
        (Typed((b"one\n", b"\n"), b"par"), USUAL, b"one\n\npar"),
        (Typed((b"end", b"")), USUAL, b"end" + END + END),
        (Typed((b"a\nb\n",), b"\x01\x02\x03"), USUAL, b"a\x02\nb\n\x02\x01\x02\x02\x02\x03"),
        (Typed((b"a;",), b";"), USUAL, b"a;" + END + b";"),
        (Typed((b"a;b;",), b";"), ending_with(b";"), b"a\x02;b;\x02;"),
        (Typed((b"a\x01",)), ending_with(b"\x01"), b"a\x01"),
        (Typed((b"b",)), ending_with(b"\x01"), b"b\x02"),
        (Typed((), b"\n\x01\x02"), RAW, b"\n\x01\x02"),
    ],
)
def test_what_is_typed(typed: Typed, settings: Settings, keys: bytes) -> None:
    assert keystrokes(typed, settings) == Keystrokes(keys, b"")


def test_a_full_terminal() -> None:
    """One long line, and its end; the kernel lets an end in where nothing else has room."""
    line = b"x" * CAPACITY + b"\n"
    assert keystrokes(Typed((line,)), USUAL) == Keystrokes(line, b"")
    assert keystrokes(Typed((line,), b"more"), USUAL) == Keystrokes(line, b"more")


def test_what_has_no_room_is_typed_later() -> None:
    lines = tuple(b"%05d\n" % number for number in range(1000))
    found = keystrokes(Typed((*lines, b"eof"), b"part", quoted=True), USUAL)
    assert len(found.plain) <= CAPACITY < len(found.plain) + 6
    assert found.plain + found.left == b"".join(lines) + b"eof\x04part\x16"
    raw = keystrokes(Typed((), b"y" * 5000), RAW)
    assert (len(raw.plain), len(raw.left)) == (CAPACITY, 5000 - CAPACITY)


@pytest.mark.parametrize("number", [9, 0, -1, 2**40])
def test_signals_that_no_key_sends_are_refused(number: int) -> None:
    with pytest.raises(ProtocolError, match=str(number)):
        put(Pty(0, -1, -1), Typed(signals=(signal.SIGINT, number)))


def test_a_terminal_that_was_hung_up_is_an_error_of_the_kernels() -> None:
    """Which keeps no copy from running; `termios.error`, of the library's, did."""
    master, slave = os.openpty()
    os.close(master)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            put_again(Pty(0, -1, slave), Typed())
    finally:
        os.close(slave)
