"""The tests' own programs, compiled once and kept: under an emulator a compiler takes minutes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests import pace
from tests.hosts.config import cache

WORKLOADS = Path(__file__).parent / "workloads"
FLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")
PROGRAMS = {
    "calls": ("calls.c",),
    "carried": ("carried*.c", "registers.c", "registers.S"),
    "mapper": ("mapper.c",),
    "mover": ("mover.c",),
    "refused": ("refused*.c",),
    "state": ("state*.c",),
    "terminal": ("terminal.c",),
    "vdso": ("vdso.c",),
}
PLACE = "programs"
FORGOTTEN = 7 * 86400.0
"""Seconds after which a program that nobody has asked for goes."""


def copy_to(place: Path, names: Iterable[str] = tuple(PROGRAMS)) -> None:
    """Have these programs in a directory; what the cache lacks is compiled, all at once."""
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for program in workers.map(_built, names):
            shutil.copy(program, place / program.name)


def kept_places() -> list[Path]:
    """Return the directories in the cache where the programs of these sources are, or will be."""
    return [_place(name) for name in PROGRAMS]


def _place(name: str) -> Path:
    digest = _digest(_compiler(), [*_sources(name), *sorted(WORKLOADS.glob("*.h"))])
    return cache() / PLACE / f"{name}-{digest}"


def _compiler() -> str:
    return os.environ.get("CC", "cc")


def _sources(name: str) -> list[Path]:
    return [path for each in PROGRAMS[name] for path in sorted(WORKLOADS.glob(each))]


def _built(name: str) -> Path:
    """Return a program in the cache: it appears whole, in a directory named by its sources."""
    place = _place(name)
    home = place.parent
    if not (place / name).exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}.draft.", dir=home) as draft:
            command = [_compiler(), *FLAGS, "-o", f"{draft}/{name}", *map(str, _sources(name))]
            subprocess.run(command, check=True, timeout=pace.limit(60))
            place.mkdir(exist_ok=True)
            Path(draft, name).replace(place / name)
        _forget(home.glob(f"{name}-*"))
    os.utime(place)
    return place / name


def _digest(compiler: str, sources: list[Path]) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=60)
    digest = hashlib.sha256(version.stdout)
    for flag in FLAGS:
        digest.update(f"{flag}\0".encode())
    for path in sources:
        digest.update(hashlib.sha256(path.name.encode() + path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _forget(places: Iterable[Path]) -> None:
    for old in places:
        with suppress(FileNotFoundError):  # another run forgets too
            if time.time() - old.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(old)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        copy_to(Path(scratch), sys.argv[1:] or PROGRAMS)
