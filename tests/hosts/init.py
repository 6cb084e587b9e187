"""PID 1 of a host: lays out its mounts and files, then reaps, and holds the namespaces open.

Started by `machine.Host.start` in namespaces that unshare(1) made; see there. When it is killed,
the kernel ends everything else in the host, containers included: like a power cut.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import furnish
from .config import HostConfig
from .proc import mark_of

OVERLAID = ("/etc", "/usr/local", "/root", "/var/lib")
FRESH = ("/run", "/tmp", "/dev/shm")
COVERED = (*OVERLAID, *FRESH)


def main() -> None:
    """Become the host; say so on the descriptor that argv names."""
    config = HostConfig.load(Path(sys.argv[1]))
    # /proc is still that of the machine, so this is the PID that the machine knows us by.
    mark_of(int(os.readlink("/proc/self"))).save(config.record)
    keys = _read_keys(config)
    first = not (config.dir / "overlay").exists()
    _lay_out(config)
    furnish.furnish(config, keys, first=first)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    with os.fdopen(int(sys.argv[2]), "w") as ready:
        ready.write("ready\n")
    _reap_until_told()


def _read_keys(config: HostConfig) -> furnish.Keys:
    keys = Path(config.root) / "keys"

    def text(name: str) -> str:
        return (keys / name).read_text()

    names = (config.name, config.peer)
    return furnish.Keys(
        host=text(f"{config.name}-host"),
        user=text(f"{config.name}-user"),
        host_public=text(f"{config.name}-host.pub"),
        peer_host_public=text(f"{config.peer}-host.pub"),
        users_public="".join(text(f"{name}-user.pub") for name in names),
    )


def _lay_out(config: HostConfig) -> None:
    with _kept_in_sight(config):
        _drop_mounts_of_the_machine()
        for path in OVERLAID:
            _overlay(path, config.dir / "overlay" / path.strip("/").replace("/", "-"))
        for path in ("/var/lib/docker", "/var/lib/containerd", "/var/lib/livemig"):
            kept = config.dir / "data" / Path(path).name
            kept.mkdir(parents=True, exist_ok=True)
            Path(path).mkdir(parents=True, exist_ok=True)
            _mount("--bind", str(kept), path)
        _tmpfs("/run", "0755")
        _tmpfs("/tmp", "1777")
        _tmpfs("/dev/shm", "1777")
        if Path(config.root).exists():
            _tmpfs(config.root, "0700")
    _mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc")


@contextmanager
def _kept_in_sight(config: HostConfig) -> Iterator[None]:
    """Keep the repository and the interpreter where they are, though a mount may cover them."""
    wanted = {config.repo, str(Path(sys.base_prefix).resolve())}
    covered = (*COVERED, config.root)
    hidden = sorted(path for path in wanted if path.startswith(tuple(f"{c}/" for c in covered)))
    fds = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in hidden}
    yield
    for path, fd in fds.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        # As it stands: made canonical, it would be the new, empty directory of the same name.
        _mount("--no-canonicalize", "--bind", f"/proc/self/fd/{fd}", path, pass_fds=(fd,))
        os.close(fd)


def _drop_mounts_of_the_machine() -> None:
    """Let go of mounts that will be covered: a copy of them would keep the user's engine busy."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    for point in reversed(points):
        if point.startswith(tuple(f"{c}/" for c in COVERED if c != "/dev/shm")):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def _overlay(path: str, kept: Path) -> None:
    for part in ("upper", "work"):
        (kept / part).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={path},upperdir={kept}/upper,workdir={kept}/work"
    _mount("-t", "overlay", "-o", options, "overlay", path)


def _tmpfs(path: str, mode: str) -> None:
    _mount("-t", "tmpfs", "-o", f"mode={mode},nosuid,nodev", "tmpfs", path)


def _mount(*args: str, pass_fds: tuple[int, ...] = ()) -> None:
    done = subprocess.run(
        ["mount", *args], check=False, capture_output=True, text=True, pass_fds=pass_fds
    )
    if done.returncode:
        raise SystemExit(f"mount {' '.join(args)}: {done.stderr.strip()}")


def _reap_until_told() -> None:
    while signal.sigwait({signal.SIGCHLD, signal.SIGTERM}) != signal.SIGTERM:
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
