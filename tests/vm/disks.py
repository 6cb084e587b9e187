"""What guests start from, made once and kept in the cache: disks, and guests that were saved."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.config import REPO, cache

from . import network
from .guest import command
from .qmp import VmError

IMAGE = REPO / "images" / "guest-debian"
READY = REPO / "images" / "guest-ready" / "ready.sh"
IMAGE_LIMIT = 1500.0
LOCK_LIMIT = 3600.0
NAME = re.compile("-[0-9a-f]{16}")  # after its kind: another kind may begin with this one
KEPT = 2
"""Entries of a kind that stay: one for the branch before this one."""


def debian_place() -> Path:
    """Return where the disk with a bare Debian 12 is kept, made or not."""
    return cache() / f"guest-debian-{digest_of(*sorted(IMAGE.iterdir()))}"


def debian() -> Path:
    """Return the directory of the disk with a bare Debian 12; made where the cache lacks it."""
    return kept(debian_place(), _make_debian)


def ready_place(digest: str) -> Path:
    """Return where the disk is kept that has all that the tests need; beside the bare one."""
    return debian_place() / f"ready-{digest_of(digest, READY.read_text())}"


def ready(place: Path, bundle: bytes, clone: str) -> Path:
    """Return the directory of that disk; made of a bare one where the cache lacks it."""
    base = debian()

    def make(directory: Path) -> None:
        disk = directory / "disk.img"
        command("cp", "--sparse=always", base / "disk.img", disk)
        with tempfile.TemporaryDirectory() as files:
            for path, data in network.files().items():
                _write(files + path, data.encode())
            _write(f"{files}/root/bundle", bundle)
            apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
            argv = ("nice", "-n", "10", *apart, READY, disk, files, clone, cache())
            command(*argv, timeout=IMAGE_LIMIT)

    return kept(place, make)


def _write(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def saved_place(kind: str, *words: Path | str) -> Path:
    """Return where a guest is kept that was saved; in the directory of its disk, to go with it.

    (A disk that was made anew would not be the one that it stands on, byte by byte.) ``words`` are
    what it is made of, besides.
    """
    version = command("qemu-system-x86_64", "--version")
    return debian_place() / f"{kind}-{digest_of(*words, version)}"


def kept(place: Path, make: Callable[[Path], None]) -> Path:
    """Return a directory of the cache; `make` fills it if it is missing.

    It appears whole or not at all; others who want the same wait meanwhile. Its name is what it is,
    a dash and a digest of what it is made of.
    """
    home, kind = place.parent, place.name.rpartition("-")[0]
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home / f"{kind}.lock"):
        if not place.exists():
            with tempfile.TemporaryDirectory(prefix=f"{kind}.draft.", dir=home) as draft:
                make(Path(draft))
                Path(draft).chmod(0o755)
                Path(draft).rename(place)
                Path(draft).mkdir()  # what the scope removes
        os.utime(place)
        _forget_old(home, kind)
    return place


def _forget_old(home: Path, kind: str) -> None:
    """Remove what has not been asked for the longest; what runs has its files open."""
    entries = [each for each in home.iterdir() if NAME.fullmatch(each.name.removeprefix(kind))]
    for old in sorted(entries, key=lambda each: each.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old)


def digest_of(*words: Path | str) -> str:
    """Return the name of what is made of these files and texts."""
    digest = hashlib.sha256()
    for word in words:
        data = word.encode() if isinstance(word, str) else word.read_bytes()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


def _make_debian(directory: Path) -> None:
    key = directory / "key"
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", key)
    public = key.with_suffix(".pub").read_text().strip()
    argv = (IMAGE / "image.sh", directory, public, network.mirror())
    command("nice", "-n", "10", *argv, timeout=IMAGE_LIMIT)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_LIMIT
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise VmError(f"{path}: another run holds it") from None
                time.sleep(0.5)  # flock(2) has no time limit of its own
            else:
                yield
                return
