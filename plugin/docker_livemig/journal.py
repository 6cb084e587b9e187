"""The journal of a move: what a peer must still know after a crash.

/var/lib/livemig/ID/journal holds one JSON object a line, each on disk (fsync of file and directory)
before ``append`` returns. A last line that a crash cut short was never promised to anybody, and is
dropped. The peer that owns a move holds a lock on the directory, which ends with it: so another one
can tell whether it lives.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from docker_livemig import lock
from docker_livemig.ondisk import make_directory, sync_directory
from livemig.errors import ProtocolError, UnderWay

STATE_DIR = Path("/var/lib/livemig")
_BEGINNING = 1.0
_PATIENCE = 5.0  # seconds: others look at every journal, and have it to themselves meanwhile
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Entry:
    """One line: the state that was reached, when (s since the epoch), and what goes with it.

    ``boot`` is the kernel's ID of the boot in which that was, empty where nobody has said.
    """

    state: str
    time: float
    details: dict[str, Any] = field(default_factory=dict)
    boot: str = ""


def state_dir() -> Path:
    """Return where journals are kept; LIVEMIG_STATE_DIR names another place, for tests."""
    return Path(os.environ.get("LIVEMIG_STATE_DIR") or STATE_DIR)


class Journal:
    """The journal of the move ``move_id``; nothing is created before the first ``append``.

    Raises ProtocolError for an ID that could not be a directory's name, since a peer may choose it.
    """

    def __init__(self, move_id: str, root: Path | None = None) -> None:
        if not _ID.fullmatch(move_id):
            raise ProtocolError(f"move ID {move_id[:80]!r} is not valid")
        self.move_id = move_id
        self.directory = (root or state_dir()) / move_id
        self.path = self.directory / "journal"
        self._lock = -1

    @classmethod
    def all(cls, root: Path | None = None) -> Iterator[Journal]:
        """Yield every journal that is kept on this host, in the order of their IDs.

        One without a line is what a crash leaves that came before the first, or after the last.
        """
        place = root or state_dir()
        for path in sorted(place.glob("*")):
            if _ID.fullmatch(path.name) and path.is_dir():
                yield cls(path.name, place)

    def begin(self, state: str, /, **details: Any) -> None:
        """Take the move, which is new on this host, and write its first line.

        ProtocolError where another peer of this host has it.
        """
        while self._lock < 0:  # a sweep may remove the empty directory before it is locked
            make_directory(self.directory)
            if not self.take(_PATIENCE):
                break
        if self._lock < 0 or self.path.exists():
            raise ProtocolError(f"the move {self.move_id} is known on this host already")
        self.append(state, **details)

    def take(self, patience: float = 0.0) -> bool:
        """Become the owner of the move; False where another living peer is, ``patience`` s long.

        True too where there is no journal. The lock ends with ``leave``, or with this process.
        """
        if self._lock < 0:
            try:
                handle = lock.acquire(self.directory, patience)
            except FileNotFoundError:
                return True
            self._lock = -1 if handle is None else handle
        return self._lock >= 0

    def leave(self) -> None:
        """Let others own the move."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def under_way(self) -> UnderWay:
        """Return the error for a move that another peer of this host owns."""
        return UnderWay(
            f"a peer on {os.uname().nodename} is at work on the move {self.move_id}",
            hint="wait for it, or end that peer: what it had not committed is undone then",
        )

    def append(self, state: str, /, **details: Any) -> None:
        """Add a line; when this returns, it outlives a crash of the host.

        Raises OSError; then there is no such line.
        """
        entry = {"state": state, "time": time.time(), "boot": _boot(), "details": details}
        line = json.dumps(entry) + "\n"
        make_directory(self.directory)
        new = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o600)
        try:
            _drop_torn_line(fd)
            _add(fd, line.encode())
        finally:
            os.close(fd)
        if new:
            sync_directory(self.directory)

    def read(self) -> list[Entry]:
        """Return the lines that were written in full; none if there is no journal."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        return [entry for line in lines if (entry := _parse(line)) is not None]

    def last(self) -> Entry | None:
        """Return the last line that was written in full."""
        entries = self.read()
        return entries[-1] if entries else None

    def known(self) -> Entry | None:
        """Return the last line with what all lines say together, as `details`; None without one.

        From one look at the file: a move that has ended meanwhile is known in full, or not at all.
        """
        entries = self.read()
        return replace(entries[-1], details=_together(entries)) if entries else None

    @property
    def state(self) -> str:
        """The state of the last line, empty without one."""
        last = self.last()
        return last.state if last else ""

    def since(self, state: str) -> float:
        """Return when a state was first reached, in s since the epoch; 0 where it was not.

        That is the beginning of time where the host was booted since, whose clock may be another:
        whatever runs now has begun later.
        """
        first = next((entry for entry in self.read() if entry.state == state), None)
        if first is None:
            return 0.0
        return first.time if first.boot in ("", _boot()) else _BEGINNING

    @property
    def engine(self) -> str:
        """Where the Docker engine listens that has the container, empty where it is not said."""
        return str(self.details().get("engine", ""))

    def details(self) -> dict[str, Any]:
        """Return what all lines say together, the later ones over the earlier."""
        return _together(self.read())

    def remove(self) -> None:
        """Remove the journal, durably, and leave it; nothing happens if there is none."""
        self.path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            sync_directory(self.directory)
            self.directory.rmdir()
            sync_directory(self.directory.parent)
        self.leave()


def _together(entries: list[Entry]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in entries:
        found |= entry.details
    return found


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _parse(line: bytes) -> Entry | None:
    try:
        data = json.loads(line)
        details, boot = dict(data["details"]), str(data.get("boot", ""))
        return Entry(str(data["state"]), float(data["time"]), details, boot)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _drop_torn_line(fd: int) -> None:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    if not data.endswith(b"\n"):
        os.ftruncate(fd, data.rfind(b"\n") + 1)


def _add(fd: int, data: bytes) -> None:
    size = os.fstat(fd).st_size
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, size)
        raise
