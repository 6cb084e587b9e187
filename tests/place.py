"""What hosts of this machine (tests.hosts) and guests (tests.vm) have in common."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Protocol

import docker


class Place(Protocol):
    """A machine with a Docker engine, and commands that are run in it as root."""

    name: str

    @property
    def socket(self) -> str:
        """Path, on this machine, of its Docker socket."""

    def api(self, timeout: float = 60.0) -> docker.APIClient:
        """Return a new connection to its engine."""

    def run(
        self, argv: Sequence[str], *, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it and return what it wrote; HostsError if it failed and `check`."""
