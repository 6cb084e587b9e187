"""What the tests of moves share: the plugin's command in a host, and hosts that are set up."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.hosts import Host

Pair = tuple[Host, Host]
LIMIT = 90.0


def set_up(pair: Pair) -> None:
    """Register the runtime on both hosts, as a user would."""
    for host in pair:
        host.run(["docker", "livemig", "setup"])


def try_move(
    source: Host, container: str, target: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run `docker livemig` in a host, whatever comes of it."""
    argv = ["docker", "livemig", "--progress", "quiet", "--format", "json", *options]
    return source.run([*argv, container, target], timeout=LIMIT, check=False)


def move(source: Host, container: str, target: Host, *options: str) -> dict[str, Any]:
    """Move a container and return the summary; the command's own words where that fails."""
    result = try_move(source, container, target.name, *options)
    assert result.returncode == 0, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def inspect(host: Host, container: str) -> dict[str, Any]:
    """Return what `docker inspect` says of a container."""
    found: list[dict[str, Any]] = json.loads(host.run(["docker", "inspect", container]).stdout)
    return found[0]
