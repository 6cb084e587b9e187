"""What was typed on a terminal and not read: taken from the source's, put into the target's.

It is taken after the commit, when the source's processes will never run again. The order matters:
1. Nothing more gets into the terminal (TCOOFF on the master: its keeper's writes wait).
2. Whole lines are read as a process would read them, so that each ends where it would.
3. What is still being edited is ended by a VEOF of ours, which is neither echoed nor stored, and
   read. A VEOF that ends nothing was taken literally: then a Ctrl-V had been typed before it.
4. From now on the terminal passes on raw bytes without an echo, to be typed again on the target.

So what the source's terminal has echoed and edited is not echoed and edited again.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from livemig.errors import ProtocolError, TransferError
from livemig.model import Stopped, Typed
from livemig.system import procfs, ttys
from livemig.system.ttys import Settings
from livemig.terminal import Pty

CAPACITY = 4095
"""Bytes that a terminal holds for its readers (N_TTY_BUF_SIZE in the kernel, less one)."""

_CHUNK = 64 << 10
_SLICE = 0.01  # seconds between looks at whether the keeper has closed the master
_KEYBOARD = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
KEYBOARD_MASK = sum(1 << each - 1 for each in _KEYBOARD)
"""The signals of a terminal's keys, bit n-1 for signal n."""
_NEWLINE = 0x0A


class LateTyping:
    """A terminal whose processes will never run again; its last words, and what comes after."""

    def __init__(self, pty: Pty) -> None:
        self._pty = pty

    def rest(self, timeout: float) -> Iterator[bytes]:
        """Yield what is typed after ``take``, until the keeper has closed the terminal.

        TransferError where that does not happen within ``timeout`` seconds of silence.
        """
        poller = select.poll()
        poller.register(self._pty.slave, select.POLLIN)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            kept = self._pty.kept()  # looked at before, so that nothing comes in between
            if poller.poll(_SLICE * 1000 if kept else 0):
                if not (data := os.read(self._pty.slave, _CHUNK)):
                    return
                deadline = time.monotonic() + timeout
                yield data
            elif not kept:
                return
        raise TransferError("the terminal of the source was not closed")


def take(pty: Pty, known: int, pid: int) -> Typed:
    """Take what was typed out of a frozen process's terminal, which then passes on raw bytes.

    ``known`` is the mask of signals that were pending when the process was extracted.
    """
    settings = ttys.settings(pty.slave)
    canonical = bool(settings.lflag & ttys.ICANON)
    ttys.hold_output(pty.master)
    try:
        writable = _writable(pty)
        found = tuple(_reads(pty, canonical=canonical))
        ttys.set_settings(pty.slave, plain(settings))
        stopped = Stopped.NOTHING if writable else _why_stopped(pty)
        partial, quoted = _partial(pty, settings) if canonical else (b"".join(found), False)
        ttys.set_settings(pty.slave, _raw(settings))
    finally:
        ttys.release_output(pty.master)
    return Typed(
        lines=found if canonical else (),
        partial=partial,
        quoted=quoted,
        stopped=stopped,
        window=ttys.window(pty.slave),
        signals=_keyboard_signals(pid, known),
    )


def _reads(pty: Pty, *, canonical: bool) -> Iterator[bytes]:
    while (data := _read(pty)) is not None and (data or canonical):
        yield data


def _read(pty: Pty) -> bytes | None:
    """Return what a read(2) returns now, None where it would wait, or would always find an end."""
    try:
        data = os.read(pty.slave, _CHUNK)
    except BlockingIOError:
        return None
    return None if not data and _events(pty) & select.POLLHUP else data


def _events(pty: Pty) -> int:
    poller = select.poll()
    poller.register(pty.slave, select.POLLOUT)
    return sum(event for _, event in poller.poll(0))


def _writable(pty: Pty) -> bool:
    return bool(_events(pty) & select.POLLOUT)


def _why_stopped(pty: Pty) -> Stopped:
    """Return what had stopped the output, now that IXON is off, which undoes a Ctrl-S."""
    if _writable(pty):
        return Stopped.CHARACTER
    ttys.release_output(pty.slave)
    return Stopped.CALL if _writable(pty) else Stopped.NOTHING  # else nobody takes what is written


def _partial(pty: Pty, settings: Settings) -> tuple[bytes, bool]:
    end = bytes((_special(settings)[0],))
    ttys.type_in(pty.slave, end)
    if (data := _read(pty)) is not None:
        return data, False
    ttys.type_in(pty.slave, end)
    return (_read(pty) or end)[:-1], True


def _keyboard_signals(pid: int, known: int) -> tuple[int, ...]:
    """Return what was sent from the keyboard since: the terminal has eaten the characters."""
    pending = int(procfs.read_status(pid)["ShdPnd"], 16) & ~known
    return tuple(int(each) for each in _KEYBOARD if pending >> (each - 1) & 1)


# Settings under which a terminal takes what it is given


def _terminators(settings: Settings) -> tuple[int, ...]:
    """Return the characters that end a line, beside VEOF."""
    found = [_NEWLINE, settings.controls[ttys.VEOL]]
    if settings.lflag & ttys.IEXTEN:
        found.append(settings.controls[ttys.VEOL2])
    return tuple(each for each in found if each)


def _special(settings: Settings) -> tuple[int, int, int]:
    """Return characters to end, to quote and to stop with, none of which ends a line otherwise."""
    free = [each for each in range(1, 10) if each not in _terminators(settings)]
    return free[0], free[1], free[2]


def plain(settings: Settings) -> Settings:
    """Return settings that echo, change and signal nothing, with canonical mode as it was."""
    if not settings.lflag & ttys.ICANON:
        return _raw(settings)
    controls = bytearray(ttys.CONTROLS)
    end, quote, stop = _special(settings)
    controls[ttys.VEOF], controls[ttys.VLNEXT], controls[ttys.VSTOP] = end, quote, stop
    controls[ttys.VEOL] = settings.controls[ttys.VEOL]
    if settings.lflag & ttys.IEXTEN:
        controls[ttys.VEOL2] = settings.controls[ttys.VEOL2]
    lflag = ttys.ICANON | ttys.IEXTEN
    return replace(settings, iflag=0, lflag=lflag, controls=bytes(controls))


def may_have_been_taken(settings: Settings) -> bool:
    """Tell whether ``take`` may have begun on a terminal: it echoes and changes nothing."""
    return not settings.iflag and not settings.lflag & ttys.ECHO


def _raw(settings: Settings) -> Settings:
    controls = bytearray(ttys.CONTROLS)
    controls[ttys.VMIN], controls[ttys.VSTOP] = 1, _special(settings)[2]
    return replace(settings, iflag=0, lflag=0, controls=bytes(controls))


# What to type for it to be as it was


@dataclass(frozen=True)
class Keystrokes:
    """What to type under ``plain`` settings, and what is left for the terminal's own ones."""

    plain: bytes
    left: bytes


def keystrokes(typed: Typed, settings: Settings) -> Keystrokes:
    """Return what puts a terminal that is empty into the state of ``typed``.

    What a terminal cannot hold is left: it had not been looked at by the source's either.
    """
    if not settings.lflag & ttys.ICANON:
        data = b"".join((*typed.lines, typed.partial))
        return Keystrokes(data[:CAPACITY], data[CAPACITY:])
    found, room = bytearray(), CAPACITY + 1  # the end of a first line finds room in any case
    for index, line in enumerate(typed.lines):
        size = len(line) + (not _is_ended(line, settings))
        if size > room:
            return Keystrokes(bytes(found), _again(typed.lines[index:], typed, settings))
        room = min(room, CAPACITY) - size
        found += _line(line, settings)
    if len(typed.partial) > room:
        return Keystrokes(bytes(found), _again((), typed, settings))
    return Keystrokes(bytes(found) + _quoted(typed.partial, settings), b"")


def _is_ended(line: bytes, settings: Settings) -> bool:
    return line[-1:] in {bytes((each,)) for each in _terminators(settings)}


def _line(line: bytes, settings: Settings) -> bytes:
    if _is_ended(line, settings):
        return _quoted(line[:-1], settings) + line[-1:]
    return _quoted(line, settings) + bytes(_special(settings)[:1])


def _quoted(piece: bytes, settings: Settings) -> bytes:
    special = _special(settings)
    found = bytearray()
    for byte in piece:
        if byte in special or byte in _terminators(settings):
            found.append(special[1])
        found.append(byte)
    return bytes(found)


def _again(lines: Sequence[bytes], typed: Typed, settings: Settings) -> bytes:
    """Return lines as a user would type them."""
    end = settings.controls[ttys.VEOF : ttys.VEOF + 1].strip(b"\0")
    whole = [line if _is_ended(line, settings) else line + end for line in lines]
    quote = settings.controls[ttys.VLNEXT : ttys.VLNEXT + 1] if typed.quoted else b""
    return b"".join(whole) + typed.partial + quote


def put(pty: Pty, typed: Typed) -> bytes:
    """Put what was taken into another terminal with the same settings, whose process is frozen.

    Returns what it could not hold, to be typed once somebody reads. Raises ProtocolError where it
    has signals that no key sends.
    """
    if not {*typed.signals} <= {*_KEYBOARD}:
        raise ProtocolError(f"signals {typed.signals} were not sent from a keyboard")
    settings = ttys.settings(pty.slave)
    strokes = keystrokes(typed, settings)
    silent = plain(settings)
    _, quote, stop = _special(settings)
    ttys.set_settings(pty.slave, silent)
    try:
        ttys.type_in(pty.slave, strokes.plain)
        if typed.stopped is Stopped.CHARACTER:
            ttys.set_settings(pty.slave, replace(silent, iflag=ttys.IXON))
            ttys.type_in(pty.slave, bytes((stop,)))
        if typed.quoted and not strokes.left:
            ttys.type_in(pty.slave, bytes((quote,)))
    finally:
        ttys.set_settings(pty.slave, settings)
    if typed.stopped is Stopped.CALL:
        ttys.hold_output(pty.slave)
    if len(typed.window) == ttys.WINDOW_SIZE:
        ttys.set_window(pty.slave, typed.window)
    for number in typed.signals:
        ttys.signal_foreground(pty.master, number)
    return strokes.left


def put_again(pty: Pty, typed: Typed) -> bytes:
    """Do as ``put``, where somebody who was killed may have done so: it is there once."""
    ttys.drop_input(pty.slave)
    return put(pty, typed)


def put_back(pty: Pty, typed: Typed, settings: Settings) -> bytes:
    """Undo ``take`` on a terminal whose process is frozen; ``settings`` are those from before.

    Returns what came since, and what it could not hold: to be typed once somebody reads.
    """
    ttys.hold_output(pty.master)
    try:
        since = b"".join(_reads(pty, canonical=False))
        ttys.set_settings(pty.slave, settings)
        left = put(pty, typed)
    finally:
        ttys.release_output(pty.master)
    return left + since
