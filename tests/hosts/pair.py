"""Both hosts together: up, down, and the link between them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests import pace

from .config import NAMES, HostConfig, pair_configs, state_root
from .machine import Host
from .proc import HostsError

Pair = tuple[Host, Host]
_T = TypeVar("_T")
LOCK_LIMIT = 600.0
STAMP = "stamp"


@contextmanager
def two_hosts(*, plugin: bool = True, setup: bool = False, keep: bool = False) -> Iterator[Pair]:
    """Start both hosts, and end them on the way out.

    Others who want the same state directory wait meanwhile; hosts that `make hosts` left up are
    replaced. `setup` runs `docker livemig setup` in both.

    `keep`: hosts that are up already are used as they are, unless these sources have changed since,
    and are left up.
    """
    with alone(state_root()):
        pair = attach() if keep and _are_ours() else bring_up(plugin=plugin, setup=setup)
        try:
            yield pair
        finally:
            if not keep:
                bring_down()


def _are_ours() -> bool:
    """Tell whether both hosts are up, started by these very sources."""
    stamp = state_root() / STAMP
    up = all(host.init and host.engine() for host in _pair())
    return up and stamp.exists() and stamp.read_text() == _digest()


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def one_host() -> Iterator[Host]:
    """Start a host with an engine and nothing else, beside any others: something to build with."""
    root = state_root() / "builder"
    with alone(root):
        host = Host(pair_configs(root, sys.executable)[0])
        host.kill()
        _remove_all(root)
        _make_keys(pair_configs(root, sys.executable))
        try:
            host.start()
            host.start_engine()
            yield host
        finally:
            host.kill()
            _remove_all(root)


def attach() -> Pair:
    """Return the hosts that are up; HostsError when they are not."""
    pair = _pair()
    for host in pair:
        _ = host.pid
    return pair


def bring_up(*, plugin: bool = True, setup: bool = False) -> Pair:
    """Start both hosts, after clearing away what an earlier run may have left."""
    if os.geteuid() != 0:
        raise HostsError("two hosts on one machine need root")
    bring_down()
    pair = _pair(plugin=plugin)
    _make_keys((pair[0].config, pair[1].config))
    try:
        in_both(pair, Host.start)
        join(*pair)
        in_both(pair, _start_daemons)
        if setup:
            in_both(pair, lambda host: host.run(["docker", "livemig", "setup"]))
        (state_root() / STAMP).write_text(_digest())
    except BaseException:
        bring_down()
        raise
    return pair


def _start_daemons(host: Host) -> None:
    host.start_sshd()
    host.start_engine()


def in_both(pair: tuple[_T, _T], work: Callable[[_T], object]) -> None:
    """Do something in both at once; both have ended it when a failure is raised."""
    with ThreadPoolExecutor(len(pair)) as workers:
        for done in [workers.submit(work, host) for host in pair]:
            done.result()


def bring_down() -> None:
    """End both hosts and remove what they kept; nothing happens when there is nothing."""
    for host in _pair():
        host.kill()
    _remove_all(state_root())


def restart(host: Host) -> None:
    """Give a killed host its power back: same disk, same link, daemons started."""
    host.start()
    host.start_sshd()
    other = next(each for each in _pair() if each.name != host.name)
    join(host, other)
    host.start_engine()


def join(a: Host, b: Host) -> None:
    """Lay a cable between them; nothing of it is ever seen in the machine's own network."""
    _ip(a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(b.pid))
    for host in (a, b):
        _ip(host, "link", "set", "lo", "up")
        _ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip(host, "link", "set", "eth0", "up")


def cut(host: Host, *, mend: bool = False) -> None:
    """Pull the cable (no word reaches the other end any more), or mend it."""
    _ip(host, "link", "set", "eth0", "up" if mend else "down")


def _ip(host: Host, *words: str) -> None:
    argv = ["nsenter", "--target", str(host.pid), "--net", "ip", *words]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=pace.limit(20))
    if done.returncode:
        raise HostsError(f"{host.name}: ip {' '.join(words)}: {done.stderr.strip()}")


def _pair(*, plugin: bool = True) -> Pair:
    a, b = pair_configs(state_root(), sys.executable, plugin=plugin)
    return Host(a), Host(b)


def _make_keys(configs: tuple[HostConfig, HostConfig]) -> None:
    keys = Path(configs[0].root) / "keys"
    keys.mkdir(parents=True, mode=0o700)
    for config in configs:
        for use in ("host", "user"):
            name = f"{config.name}-{use}"
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", keys / name],
                check=True,
                stdin=subprocess.DEVNULL,
                timeout=pace.limit(20),
            )


def _remove_all(root: Path) -> None:
    for name in (STAMP, "keys", *NAMES):
        _remove(root / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def alone(root: Path, limit: float = LOCK_LIMIT) -> Iterator[None]:
    """Hold a state directory's lock; wait for at most `limit` seconds if another run holds it."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        _take(lock.fileno(), root, limit)
        yield


def _take(fd: int, root: Path, limit: float) -> None:
    deadline = time.monotonic() + limit
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise HostsError(
                    f"another run holds {root}; wait for it, "
                    "or set LIVEMIG_HOSTS_DIR to another directory"
                ) from None
            # flock(2) has no time limit of its own.
            time.sleep(0.5)
        else:
            return
