"""The process of this host's Docker engine: which it is, since when it runs, whether it ends."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

import psutil

from docker_livemig.engine_api import address
from livemig.system import procfs

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_LISTENS = 0x10000  # __SO_ACCEPTCON, in the flags of /proc/net/unix
_PATIENCE = 10.0  # seconds that a busy engine has to take a connection
_GONE = (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess)


def listener(timeout: float = _PATIENCE) -> int:
    """Return the process that listens where the engine does (SO_PEERCRED in unix(7)).

    Where systemd(1) listens for the engine it is systemd. Raises OSError, also where nobody takes
    the connection within ``timeout`` seconds.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(_place())
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid: int = _UCRED.unpack(peer)[0]
    return pid


def started() -> float:
    """Return when dockerd was started, in seconds since the epoch; 0 if unknown. Raises OSError."""
    return _find()[1]


class Engine:
    """The dockerd that answers now."""

    def __init__(self) -> None:
        self._pid = 0
        with suppress(OSError):
            self._pid = _find()[0]
        self._sockets = _sockets(self._pid)

    def ends(self) -> bool:
        """Tell whether it has ended, or was told to: before all else it listens no more then.

        One whose socket was not found, since somebody passes connections on to it, never seems to.
        """
        return bool(self._sockets) and self._sockets.isdisjoint(_sockets(self._pid))


def _place() -> str:
    return address().removeprefix("unix://")


def _find() -> tuple[int, float]:
    """Return dockerd's process and when it was started; zeros where it is not found."""
    pid = listener()
    with suppress(*_GONE):
        if psutil.Process(pid).name() == "dockerd":
            return pid, procfs.started(pid)
    # systemd(1) listens for it where the socket is activated.
    found = [(0, 0.0)]
    for each in psutil.process_iter(["name", "ppid"]):
        if (each.info["name"], each.info["ppid"]) == ("dockerd", 1):
            with suppress(*_GONE):  # it has ended meanwhile
                found.append((each.pid, procfs.started(each.pid)))
    return max(found, key=lambda each: each[1])


def _sockets(pid: int) -> frozenset[str]:
    """Return the listening sockets at the engine's place that a process has, as /proc names them.

    Several processes may have the same one: systemd(1) keeps those that it passes on.
    """
    found, place = set[str](), os.path.realpath(_place())
    with suppress(*_GONE):
        for line in procfs.read_text(f"/proc/{pid}/net/unix").splitlines()[1:]:
            _, _, _, flags, _, _, inode, *path = line.split(None, 7)
            if int(flags, 16) & _LISTENS and path and os.path.realpath(path[0]) == place:
                found.add(f"socket:[{inode}]")
        return frozenset(found.intersection(_links(pid)))
    return frozenset()


def _links(pid: int) -> list[str]:
    found = []
    for number in procfs.descriptors(pid):
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found
