"""The containers that are held on this host for a process to move in.

A record per container in /var/lib/livemig/.hold, shared with ``livemig-runc``, which is a program
of its own and documents the layout: its states are ``pending``, ``held`` and ``running``, in that
order. They outlive the host, a loss of power too: Docker must not start what was held, nor be kept
from starting what arrived.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

from docker_livemig import ondisk
from livemig.errors import InternalError
from livemig.stub import hold_path
from livemig.system.handles import CLONE_NEWNS, set_namespace
from livemig.system.libc import syscall
from livemig.system.numbers import NR_UMOUNT2

State = Literal["pending", "held", "running"]

PLACE = "/dev/.livemig-hold"
"""Where a held container finds the hold program; gone after `unmount`."""

_DIRECTORY = "/var/lib/livemig/.hold"
_STATES = ("pending", "held", "running")
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def pend(container_id: str, program: Path | None = None, engine: str = "") -> None:
    """Make the next start of this container start the hold program in place of its command.

    ``program`` is a static executable on this host (livemig-hold unless told), ``engine`` where the
    Docker listens that has the container.
    """
    path = _path(container_id)
    ondisk.make_directory(path.parent)
    record = {
        "state": "pending",
        "program": str(program or hold_path()),
        "original": None,
        "engine": engine,
    }
    _write(path, record)


def state(container_id: str) -> State | None:
    """Return where the container stands, or None when it is not registered."""
    record = _read(container_id)
    return None if record is None else cast("State", record["state"])


def original(container_id: str) -> dict[str, Any]:
    """Return ``process`` of the OCI configuration as it was before the container was held."""
    record = _read(container_id)
    if record is None or not isinstance(record.get("original"), dict):
        raise InternalError(f"container {container_id[:12]} is not held")
    return cast("dict[str, Any]", record["original"])


def rights(container_id: str) -> int:
    """Return which capabilities Docker gives the container, bit n for number n."""
    record = _read(container_id)
    if record is None or not isinstance(found := record.get("rights"), int):
        raise InternalError(
            f"container {container_id[:12]} is not held, or was held by another version of "
            "livemig-runc",
            hint="run `docker livemig setup` again on this host",
        )
    return found


def running(container_id: str) -> None:
    """Say that the application runs: the next `docker unpause` thaws nothing and ends the hold."""
    record = _read(container_id)
    if record is None or record["state"] == "pending":
        raise InternalError(f"container {container_id[:12]} is not held")
    record["state"] = "running"
    _write(_path(container_id), record)


def forget(container_id: str) -> None:
    """End the hold, in whatever state it is: from now on the container is one like any other."""
    path = _path(container_id)
    with suppress(FileNotFoundError):
        path.unlink()
        ondisk.sync_directory(path.parent)


def engine(container_id: str) -> str:
    """Return where the Docker listens that has the container, empty where it is not said."""
    return str((_read(container_id) or {}).get("engine", ""))


def registered() -> list[str]:
    """Return every registered container, whatever its record says."""
    return sorted(path.stem for path in _directory().glob("*.json"))


def unmount(pid: int) -> None:
    """Take the hold program out of the container of ``pid``, so that no trace of it is left.

    What runs keeps its mapping of it. Nothing happens when it is out already. Raises OSError.
    """
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # In a child: a thread that shares its directories cannot enter a mount namespace.
        child = os.fork()
        if child == 0:
            os._exit(_unmount_here(namespace))
        _, status = os.waitpid(child, 0)
    finally:
        os.close(namespace)
    if number := os.waitstatus_to_exitcode(status):
        raise OSError(abs(number), f"unmounting {PLACE} of process {pid}: {os.strerror(number)}")


def _unmount_here(namespace: int) -> int:
    try:
        set_namespace(namespace, CLONE_NEWNS)
        while _detached():
            pass
        with suppress(FileNotFoundError):
            os.unlink(PLACE)
    except OSError as error:
        return error.errno or 255
    except BaseException:  # noqa: BLE001 - the child must not go on as a second parent
        return 255
    return 0


def _detached() -> bool:
    flags = _MNT_DETACH | _UMOUNT_NOFOLLOW
    try:
        syscall(NR_UMOUNT2, ctypes.c_char_p(PLACE.encode()), flags, what=f"unmounting {PLACE}")
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # no mount (any more), no such file
            return False
        raise
    return True


def _directory() -> Path:
    return Path(os.environ.get("LIVEMIG_HOLD_DIR") or _DIRECTORY)


def _path(container_id: str) -> Path:
    if not re.fullmatch(r"[0-9a-f]{64}", container_id):
        raise InternalError(f"{container_id!r} is not a container's full ID")
    return _directory() / f"{container_id}.json"


def _read(container_id: str) -> dict[str, Any] | None:
    path = _path(container_id)
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(record, dict) or record.get("state") not in _STATES:
        raise _damaged(path, "it has no known state")
    return record


def _damaged(path: Path, what: str) -> InternalError:
    return InternalError(
        f"{path} is damaged ({what}); where `docker livemig status` shows no move of container "
        f"{path.stem[:12]}, remove that container, if it is there, and the file"
    )


def _write(path: Path, record: dict[str, Any]) -> None:
    ondisk.replace(path, json.dumps(record).encode(), mode=0o600)
