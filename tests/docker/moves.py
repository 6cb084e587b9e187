"""What the tests of moves share: the plugin's command in a host, and hosts that are set up."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from docker_livemig.exits import EXIT_CODES
from livemig.errors import LivemigError
from tests import pace
from tests.attachment import Attachment
from tests.hosts import Host, in_both
from tests.hosts.config import REPO
from tests.place import Place

Pair = tuple[Host, Host]
LIMIT = 90.0


def set_up(pair: Pair) -> None:
    """Register the runtime on both hosts, as a user would."""
    in_both(pair, lambda host: host.run(["docker", "livemig", "setup"]))


@contextmanager
def ready_for(pair: Pair, name: str) -> Iterator[Pair]:
    """Set both hosts up for a container, and remove it from both at the end of the scope."""
    set_up(pair)
    yield pair
    for host in pair:
        host.run(["docker", "rm", "-f", name], check=False)


def try_move(
    source: Place, container: str, target: str, *options: str, limit: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """Run `docker livemig` in a host, whatever comes of it."""
    argv = ["docker", "livemig", "--progress", "quiet", "--format", "json", *options]
    return source.run([*argv, container, target], timeout=limit, check=False)


def move(
    source: Place, container: str, target: Place, *options: str, limit: float = LIMIT
) -> dict[str, Any]:
    """Move a container and return the summary; the command's own words where that fails."""
    result = try_move(source, container, target.name, *options, limit=limit)
    assert result.returncode == 0, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def inspect(host: Host, container: str) -> dict[str, Any]:
    """Return what `docker inspect` says of a container."""
    found: list[dict[str, Any]] = json.loads(host.run(["docker", "inspect", container]).stdout)
    return found[0]


def refused(
    source: Host,
    container: str,
    host: str,
    error: type[LivemigError],
    *words: str,
    options: Sequence[str] = (),
    **kwargs: Any,
) -> str:
    """Ask for a move that must fail with this error, and return its message.

    The message names each of the words, and the exit code is the error's own.
    """
    argv = ["docker", "livemig", "--progress", "json", *options, container, host]
    result = source.run(argv, timeout=LIMIT, check=False, **kwargs)
    last = json.loads(result.stderr.splitlines()[-1])
    assert "error" in last, result.stderr
    message: str = last["error"]["message"]
    assert (last["error"]["code"], result.returncode) == (error.code, EXIT_CODES[error]), message
    for word in words:
        assert word in message, message
    assert result.stdout == ""
    assert "may still hold" not in result.stderr
    return message


def answers(host: Host, container: str, line: str = "0") -> str:
    """Return what a container answers to a line."""
    with Attachment(host.socket, container) as attachment:
        attachment.send(line)
        while (answer := attachment.line(10)) == "ready":
            continue  # the recorder greets
        return answer


def facts(host: Host, container: str) -> dict[str, Any]:
    """Return what a move that failed must not have changed."""
    found = inspect(host, container)
    return {key: found[key] for key in ("Id", "Name", "State", "RestartCount", "HostConfig")}


def processes(host: Host, *words: str) -> list[psutil.Process]:
    """Return the processes of a host whose arguments hold each of the words."""
    home, found = os.readlink(f"/proc/{host.pid}/ns/pid"), []
    for process in psutil.process_iter():
        try:
            if os.readlink(f"/proc/{process.pid}/ns/pid") != home:
                continue
            arguments = process.cmdline()
        except (psutil.Error, OSError):
            continue
        if all(word in arguments for word in words):
            found.append(process)
    return found


def shown(host: Host, argv: Sequence[str], words: str) -> str:
    """Return what a command writes once that holds some words, or when they did not come."""
    deadline = time.monotonic() + pace.limit(20)
    while words not in (text := host.run(argv).stdout) and time.monotonic() < deadline:
        time.sleep(0.05)
    return text


def kill(found: list[psutil.Process]) -> None:
    """Kill processes; one may have ended by itself, as those do that lose each other."""
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()


PLUGIN = "/usr/local/lib/docker/cli-plugins/docker-livemig"


@contextmanager
def wrapped(host: Host, wrapper: ModuleType) -> Iterator[None]:
    """Have ``wrapper`` run in place of a host's `docker-livemig`, whose path it gets first."""
    plugin = host.path(PLUGIN)
    original = plugin.read_text()
    real = plugin.with_name("real-livemig")
    real.write_text(original)
    real.chmod(0o755)
    plugin.write_text(
        f"#!/bin/sh\nexec env PYTHONPATH={REPO} {host.config.python} -m {wrapper.__name__} "
        f'{Path(PLUGIN).with_name("real-livemig")} "$@"\n'
    )
    try:
        yield
    finally:
        plugin.write_text(original)
        real.unlink()


SLOW = """\
import os, select, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    ready = select.select([0, connection], [], [])[0]
    if connection in ready:
        if not (data := connection.recv(65536)):
            break
        os.write(1, data)
    if 0 in ready:
        if not (data := os.read(0, 65536)):
            break
        connection.sendall(data)
        time.sleep(len(data) / float(sys.argv[3]))
"""


@contextmanager
def slow_link(host: Host, rate: float) -> Iterator[dict[str, str]]:
    """Yield an environment in which `docker livemig` sends so many bytes a second at most."""
    program = host.path("/run/slow.py")
    program.write_text(SLOW)
    proxy = f"{host.config.python} -I /run/slow.py %h %p {rate}"
    try:
        yield {"LIVEMIG_SSH": f"-o 'ProxyCommand={proxy}'"}
    finally:
        program.unlink()


@contextmanager
def replaced(host: Host, path: str, text: str | None, mode: int = 0o755) -> Iterator[None]:
    """Have other contents in a file of a host for a while; None: have no such file."""
    file = host.path(path)
    kept = file.read_bytes() if file.exists() else None
    former = file.stat().st_mode & 0o7777 if file.exists() else mode
    file.unlink(missing_ok=True)
    try:
        if text is not None:
            file.write_text(text)
            file.chmod(mode)
        yield
    finally:
        file.unlink(missing_ok=True)
        if kept is not None:
            file.write_bytes(kept)
            file.chmod(former)
