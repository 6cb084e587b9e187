"""Terminals: struct termios2, and the requests of ioctl_tty(2) that Python lacks.

None of them needs the terminal to be the caller's own; some need CAP_SYS_ADMIN for that.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

TIOCNOTTY = 0x5422
N_TTY = 0
IXON, ICANON, ECHO, IEXTEN = 0o2000, 0o2, 0o10, 0o100000
VEOF, VMIN, VSTOP, VEOL, VLNEXT, VEOL2 = 4, 6, 9, 11, 15, 16
CONTROLS = 19
WINDOW_SIZE = 8
_TCGETS2, _TCSETS2 = 0x802C542A, 0x402C542B
_TCXONC, _TCOOFF, _TCOON = 0x540A, 0, 1
_TCFLSH, _TCIFLUSH = 0x540B, 0
_TIOCEXCL, _TIOCGPGRP, _TIOCSTI = 0x540C, 0x540F, 0x5412
_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
_TIOCGETD, _TIOCGSID, _TIOCGLCKTRMIOS = 0x5424, 0x5429, 0x5456
_TIOCGPTN, _TIOCGDEV, _TIOCGEXCL = 0x80045430, 0x80045432, 0x80045440
_TIOCSIG, _TIOCGPTPEER = 0x40045436, 0x5441
_TERMIOS2 = struct.Struct("=IIIIB19sII")
_LOCKED_SIZE = 64  # no less than struct termios
_TTY_DEVICE = (5, 0)


@dataclass(frozen=True)
class Settings:
    """``struct termios2`` (include/uapi/asm-generic/termbits.h)."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    controls: bytes
    ispeed: int
    ospeed: int

    def pack(self) -> bytes:
        """Return the bytes of the struct."""
        return _TERMIOS2.pack(
            self.iflag,
            self.oflag,
            self.cflag,
            self.lflag,
            self.line,
            self.controls,
            self.ispeed,
            self.ospeed,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Settings:
        """Return the settings that the bytes of the struct stand for; ValueError for others."""
        if len(data) != _TERMIOS2.size:
            raise ValueError(f"struct termios2 has {_TERMIOS2.size} bytes, not {len(data)}")
        return cls(*_TERMIOS2.unpack(data))


def _number(descriptor: int, request: int) -> int:
    (found,) = struct.unpack("=i", fcntl.ioctl(descriptor, request, bytes(4)))
    return int(found)


def settings(descriptor: int) -> Settings:
    """Return the settings of a terminal."""
    return Settings.unpack(fcntl.ioctl(descriptor, _TCGETS2, bytes(_TERMIOS2.size)))


def set_settings(descriptor: int, wanted: Settings) -> None:
    """Change the settings at once."""
    fcntl.ioctl(descriptor, _TCSETS2, wanted.pack())


def window(descriptor: int) -> bytes:
    """Return ``struct winsize``."""
    return fcntl.ioctl(descriptor, _TIOCGWINSZ, bytes(WINDOW_SIZE))


def set_window(descriptor: int, size: bytes) -> None:
    """Change the window size; where it differs, the foreground group gets SIGWINCH."""
    fcntl.ioctl(descriptor, _TIOCSWINSZ, size)


def discipline(descriptor: int) -> int:
    """Return the number of the line discipline."""
    return _number(descriptor, _TIOCGETD)


def has_locked_settings(descriptor: int) -> bool:
    """Tell whether some settings are locked (TIOCSLCKTRMIOS)."""
    return any(fcntl.ioctl(descriptor, _TIOCGLCKTRMIOS, bytes(_LOCKED_SIZE)))


def exclusive(descriptor: int) -> bool:
    """Tell whether others may not open the terminal (TIOCEXCL)."""
    return bool(_number(descriptor, _TIOCGEXCL))


def set_exclusive(descriptor: int) -> None:
    """Let nobody but root open the terminal any more."""
    fcntl.ioctl(descriptor, _TIOCEXCL)


def foreground_group(master: int) -> int:
    """Return the foreground process group, as this PID namespace counts; 0 without one."""
    return _number(master, _TIOCGPGRP)


def session(master: int) -> int:
    """Return the session that the terminal controls; 0 without one."""
    try:
        return _number(master, _TIOCGSID)
    except OSError:  # ENOTTY: it controls none
        return 0


def type_in(descriptor: int, data: bytes) -> None:
    """Put bytes into the terminal's input, one after the other, as if they had been typed."""
    for byte in data:
        fcntl.ioctl(descriptor, _TIOCSTI, bytes((byte,)))


def hold_output(descriptor: int) -> None:
    """Stop what is written to this end (TCOOFF)."""
    fcntl.ioctl(descriptor, _TCXONC, _TCOOFF)


def release_output(descriptor: int) -> None:
    """Let it go on (TCOON)."""
    fcntl.ioctl(descriptor, _TCXONC, _TCOON)


def drop_input(slave: int) -> None:
    """Forget what was typed and not read (TCIFLUSH)."""
    fcntl.ioctl(slave, _TCFLSH, _TCIFLUSH)


def signal_foreground(master: int, number: int) -> None:
    """Send SIGINT, SIGQUIT or SIGTSTP to the foreground group, as a typed character would."""
    fcntl.ioctl(master, _TIOCSIG, number)


def open_slave(master: int, flags: int) -> int:
    """Open the other end of a pseudo-terminal, wherever its file system is mounted."""
    # O_CLOEXEC would stay among the flags of the description, which every duplicate then shows.
    found = fcntl.ioctl(master, _TIOCGPTPEER, flags & ~os.O_CLOEXEC | os.O_NOCTTY)
    os.set_inheritable(found, False)
    return found


def is_master(descriptor: int) -> bool:
    """Tell whether a descriptor is a pseudo-terminal's master."""
    try:
        _number(descriptor, _TIOCGPTN)
    except OSError:
        return False
    return True


def device(descriptor: int) -> int:
    """Return the device number of the terminal behind a descriptor, be it opened as /dev/tty."""
    return _number(descriptor, _TIOCGDEV)


def is_own_device(number: int) -> bool:
    """Tell whether a device number is that of /dev/tty."""
    return (os.major(number), os.minor(number)) == _TTY_DEVICE
