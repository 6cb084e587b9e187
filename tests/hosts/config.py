"""Where a host keeps what, and what it is called."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

NAMES = ("lma", "lmb")
ADDRESSES = ("10.203.0.1", "10.203.0.2")


def state_root() -> Path:
    """Directory below which both hosts keep everything (LIVEMIG_HOSTS_DIR)."""
    return Path(os.environ.get("LIVEMIG_HOSTS_DIR") or "/var/tmp/livemig-hosts")


@dataclass(frozen=True)
class HostConfig:
    """One host: its name, its address, its neighbour and its directory on this machine."""

    name: str
    address: str
    peer: str
    peer_address: str
    root: str
    """State of both hosts; hidden inside them."""
    repo: str
    python: str
    cgroup: str
    """Parent of its containers' control groups, below the root of each hierarchy."""
    plugin: bool = True
    """Whether docker-livemig is installed."""

    @property
    def dir(self) -> Path:
        """State of this host."""
        return Path(self.root) / self.name

    @property
    def record(self) -> Path:
        """Where PID 1 of the host notes which process it is."""
        return self.dir / "init.json"

    def save(self) -> Path:
        """Write it where PID 1 of the host reads it."""
        path = self.dir / "config.json"
        path.write_text(json.dumps(asdict(self), indent=1))
        return path

    @classmethod
    def load(cls, path: Path) -> HostConfig:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))


def pair_configs(root: Path, python: str, *, plugin: bool = True) -> tuple[HostConfig, HostConfig]:
    """Return the configurations of both hosts below `root`."""
    mark = f"{zlib.crc32(str(root).encode()):08x}"

    def one(me: int) -> HostConfig:
        return HostConfig(
            name=NAMES[me],
            address=ADDRESSES[me],
            peer=NAMES[1 - me],
            peer_address=ADDRESSES[1 - me],
            root=str(root),
            repo=str(REPO),
            python=python,
            cgroup=f"livemig-{mark}-{NAMES[me]}",
            plugin=plugin,
        )

    return one(0), one(1)


def cache() -> Path:
    """Return the directory where everything lies that is slow to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "livemig")
