"""`docker livemig setup`: make the OCI runtime known to this host's Docker, or take it back.

Where systemd runs, a unit for the next boot comes with it (`atboot`).

The entry goes into the daemon's configuration file beside what is there already; Docker reads
``runtimes`` again on SIGHUP, so no container is disturbed. When it does not take the new file, the
old one is put back.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker_livemig import atboot, dockerd, engine_api, ondisk
from docker_livemig.engine_api import RUNTIME, translating
from docker_livemig.journal import Journal
from docker_livemig.sweep import is_open
from livemig.errors import ContainerError, HostError, NoDocker, NotRoot

INSTALLED = Path("/usr/local/bin") / RUNTIME
"""Where the runtime is installed: a path that stays when the Python environment goes."""

CONFIG = Path("/etc/docker/daemon.json")
MARK = Path("/var/lib/livemig/setup.json")
"""Remembers that the configuration file was made by us, so that undo may remove it."""

RELOAD_LIMIT = 15
"""Seconds that Docker has to read its configuration again."""

_PIDFILES = (Path("/run/docker.pid"), Path("/var/run/docker.pid"))
_PACKAGED = Path(__file__).with_name(RUNTIME)
_SYSTEM_PYTHON = Path("/usr/bin/python3")


@dataclass(frozen=True)
class Daemon:
    """The engine of this host: its process, and the file that it reads."""

    pid: int
    config: Path


def run(dry_run: bool = False, undo: bool = False, engine: str = "") -> list[str]:
    """Register the runtime (or, with ``undo``, take it back); return what was done, for people.

    ``engine`` is where Docker listens (unix://…, empty: as the environment has it).
    With ``dry_run`` nothing changes and the lines are the differences that would be made. Doing
    what is done already is no error. Raises NotRoot, NoDocker, HostError, and ContainerError when
    a container still depends on what ``undo`` would remove, UnderWay while one is moved.
    """
    if os.geteuid() != 0:
        raise NotRoot("setup changes Docker's configuration", hint="run it as root, with `sudo`")
    with engine_api.connected(engine) as api:
        return _run(api, dry_run, undo)


def _run(api: docker.APIClient, dry_run: bool, undo: bool) -> list[str]:
    daemon = find_daemon(api)
    before = _read(daemon.config)
    if undo:
        _refuse_while_used(api)
        _refuse_while_moved()
        after = without_runtime(before, remove_empty=MARK.exists())
    else:
        after = with_runtime(before, INSTALLED)
    if dry_run:
        return _difference(daemon.config, before, after) + _would(undo)
    return _undo(api, daemon, before, after) if undo else _do(api, daemon, before, after)


# What the files become


def with_runtime(text: str | None, program: Path) -> str:
    """Return the configuration with the runtime in it; the rest stays, in its order."""
    config = _parse(text)
    entry = {"path": str(program)}
    if config.get("runtimes", {}).get(RUNTIME) == entry and text is not None:
        return text
    config.setdefault("runtimes", {})[RUNTIME] = entry
    return _format(config, text)


def without_runtime(text: str | None, *, remove_empty: bool = False) -> str | None:
    """Return the configuration without the runtime, or None when there should be no file."""
    config = _parse(text)
    if text is None or RUNTIME not in config.get("runtimes", {}):
        return text
    del config["runtimes"][RUNTIME]
    if not config["runtimes"]:
        del config["runtimes"]
    return None if remove_empty and not config else _format(config, text)


def runtime_program() -> bytes:
    """Return livemig-runc as it is to be installed here: its interpreter must exist."""
    program = _PACKAGED.read_bytes()
    if _SYSTEM_PYTHON.exists():
        return program
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    return program.replace(b"#!" + bytes(_SYSTEM_PYTHON), b"#!" + bytes(base), 1)


def _parse(text: str | None) -> dict[str, Any]:
    if text is None or not text.strip():
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise HostError(
            f"Docker's configuration is not valid JSON: {error}", hint="mend it first"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("runtimes", {}), dict):
        raise HostError("Docker's configuration is no JSON object with an object of runtimes")
    return config


def _format(config: dict[str, Any], like: str | None) -> str:
    indent = re.search(r"^[ \t]+", like or "", re.MULTILINE)
    return json.dumps(config, indent=indent[0] if indent else 4, ensure_ascii=False) + "\n"


def _difference(path: Path, before: str | None, after: str | None) -> list[str]:
    old, new = (before or "").splitlines(), (after or "").splitlines()
    was, becomes = ("/dev/null" if text is None else str(path) for text in (before, after))
    lines = difflib.unified_diff(old, new, was, becomes, lineterm="")
    return list(lines) or [f"{path}: no change"]


def _would(undo: bool) -> list[str]:
    """Return what would become of the runtime's program, and of the unit."""
    if undo:
        there = {INSTALLED: INSTALLED.exists(), atboot.UNIT: atboot.is_there()}
        return [f"would remove {each}" for each in there if there[each]]
    due = {INSTALLED: not _is_installed(runtime_program()), atboot.UNIT: atboot.is_due()}
    return [f"would install {each}" for each in due if due[each]]


# Doing it


def _is_installed(program: bytes) -> bool:
    return INSTALLED.exists() and INSTALLED.read_bytes() == program


def _do(api: docker.APIClient, daemon: Daemon, before: str | None, after: str | None) -> list[str]:
    lines = []
    program = runtime_program()
    if not _is_installed(program):
        _replace(INSTALLED, program, mode=0o755)
        lines.append(f"installed {INSTALLED}")
    if after != before or not _registered(api):
        _change(api, daemon, before, after, wanted=True)
        if before is None:
            _replace(MARK, json.dumps({"created": str(daemon.config)}).encode(), mode=0o600)
        lines.append(f"registered the runtime {RUNTIME} in {daemon.config}")
    lines += atboot.install()
    return lines or [f"the runtime {RUNTIME} is registered already"]


def _undo(
    api: docker.APIClient, daemon: Daemon, before: str | None, after: str | None
) -> list[str]:
    lines = []
    if after != before or _registered(api):
        # Docker keeps the runtimes that it has when the key is missing: an empty one clears them.
        config = _parse(after)
        config.setdefault("runtimes", {})
        _change(api, daemon, before, _format(config, before), wanted=False)
        _write(daemon.config, after)
        lines.append(f"removed the runtime {RUNTIME} from {daemon.config}")
    MARK.unlink(missing_ok=True)
    if INSTALLED.exists():
        INSTALLED.unlink()
        lines.append(f"removed {INSTALLED}")
    lines += atboot.remove()
    return lines or [f"the runtime {RUNTIME} is not registered"]


def _change(
    api: docker.APIClient, daemon: Daemon, before: str | None, after: str | None, *, wanted: bool
) -> None:
    _write(daemon.config, after)
    try:
        reload(api, daemon, lambda: _registered(api) == wanted)
    except BaseException:
        _write(daemon.config, before)
        os.kill(daemon.pid, signal.SIGHUP)
        raise


def reload(api: docker.APIClient, daemon: Daemon, done: Callable[[], bool]) -> None:
    """Have Docker read its configuration again; HostError unless ``done`` holds soon after."""
    start = time.time()
    os.kill(daemon.pid, signal.SIGHUP)
    until = start + RELOAD_LIMIT
    kind = {"type": "daemon", "event": "reload"}
    with translating("waiting for Docker to read its configuration again", NoDocker):
        for _ in api.events(since=f"{start:.9f}", until=f"{until:.9f}", filters=kind):
            if done():
                return
        if done():
            return
    raise HostError(
        f"Docker did not take the new {daemon.config}; the old one is back",
        hint="dockerd's log says why: `journalctl -u docker`",
    )


def find_daemon(api: docker.APIClient) -> Daemon:
    """Return the process of the engine that ``api`` speaks to; NoDocker when it is not found.

    It is the one that listens there. Where systemd does (docker.socket), for the engine that people
    have, the engine's own file names it.
    """
    pids = [_pid_of_peer(api)]
    if _is_default(engine_api.address()):
        pids += [_pid_of_file(path) for path in _PIDFILES]
    for pid in pids:
        if pid and _command_name(pid) == "dockerd":
            return Daemon(pid, _config_of(pid))
    raise NoDocker(
        f"no dockerd was found that listens at {engine_api.address()}",
        hint="setup knows a dockerd that listens there itself, or that has its pid in "
        "/run/docker.pid; Docker Desktop is not one",
    )


def _is_default(address: str) -> bool:
    paths = (each.removeprefix("unix://") for each in (address, engine_api.DEFAULT_SOCKET))
    return len(set(map(os.path.realpath, paths))) == 1


def _pid_of_file(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _pid_of_peer(api: docker.APIClient) -> int:
    try:
        return dockerd.listener(api.timeout)
    except OSError:
        return 0


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _config_of(pid: int) -> Path:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--config-file" and following:
            return Path(following)
        if word.startswith("--config-file="):
            return Path(word.partition("=")[2])
    return CONFIG


def _registered(api: docker.APIClient) -> bool:
    entry = api.info().get("Runtimes", {}).get(RUNTIME)
    return entry is not None and entry.get("path", str(INSTALLED)) == str(INSTALLED)


def _refuse_while_used(api: docker.APIClient) -> None:
    users = []
    with translating("looking for containers that use the runtime", NoDocker):
        for each in api.containers(all=True):
            found = api.inspect_container(each["Id"])
            if found["HostConfig"].get("Runtime") == RUNTIME:
                users.append(found["Name"].lstrip("/"))
    if users:
        names = " ".join(shlex.quote(name) for name in sorted(users))
        raise ContainerError(
            f"the runtime {RUNTIME} is still needed by: {names}",
            hint=f"move these containers away or remove them: `docker rm {names}`",
        )


def _refuse_while_moved() -> None:
    """Raise ContainerError while a container of this host is frozen, or may be, by a move.

    Docker says that such a one runs, and nothing but `recover` ends that.
    """
    for journal in Journal.all():
        if not journal.take():
            raise journal.under_way()
        journal.leave()
        known = journal.known()
        if known is not None and is_open(known) and not known.details.get("decided"):
            raise ContainerError(
                f"the move {journal.move_id} of this host is {known.state}, and has not ended",
                hint=f"`docker livemig recover {journal.move_id}` ends it",
            )


# Files


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise HostError(f"cannot read {path}: {error}") from error


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        _replace(path, text.encode(), mode=0o644)


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    """Put a file in place in one step; HostError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ondisk.replace(path, content, mode=mode)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error}") from error
