"""The project's images: built once with an engine of these hosts, then loaded from a cache."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
from tests import pace

from .config import REPO, cache
from .machine import Host
from .pair import one_host
from .proc import HostsError

BASE = "livemig/base:latest"
RECORDER = "livemig/recorder:latest"
MADE_OF = ("base", "recorder")
BUILD_LIMIT = pace.limit(600)


def load_images(host: Host, *tags: str) -> None:
    """Have these images (the recorder, unless told) in the host, from the cache or built there."""
    archives = cached_archives(host)
    api = host.api(600)
    try:
        for tag in tags or (RECORDER,):
            with archives[tag].open("rb") as archive:
                for line in api.load_image(archive):
                    _check(line)
    finally:
        api.close()


def cached_archives(host: Host) -> dict[str, Path]:
    """Return the file of each image as `docker save` writes it; build them if they are missing."""
    archives = archive_paths()
    if not are_cached():
        cache_dir().mkdir(parents=True, exist_ok=True)
        _build(host, archives)
    return archives


def built_archives() -> dict[str, Path]:
    """Return the same; if they are missing, a host is started to build them in."""
    if not are_cached():
        with one_host() as host:
            cached_archives(host)
    return archive_paths()


def are_cached() -> bool:
    """Tell whether the cache has the file of each image."""
    return all(path.exists() for path in archive_paths().values())


def archive_paths() -> dict[str, Path]:
    """Return where the file of each image is, or will be."""
    place = cache_dir()
    return {tag: place / f"{tag.split('/')[1].split(':')[0]}.tar" for tag in (BASE, RECORDER)}


def cache_dir() -> Path:
    """Where the archives of the present sources are kept."""
    digest = hashlib.sha256()
    sources = (path for name in MADE_OF for path in (REPO / "images" / name).rglob("*"))
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(f"{path.relative_to(REPO)}\0{path.stat().st_mode:o}\0".encode())
        digest.update(path.read_bytes())
    digest.update(_command("dpkg-query", "--show", "g++", "libc6", "libstdc++6").encode())
    return cache() / f"images-{digest.hexdigest()[:16]}"


def _build(host: Host, archives: dict[str, Path]) -> None:
    out = REPO / "build" / "images"
    out.mkdir(parents=True, exist_ok=True)
    _command("make", "-s", "-C", str(REPO / "images/recorder"), f"OUT={out}")
    _command(str(REPO / "images/base/rootfs.sh"), str(out / "base.tar"))
    api = host.api(600)
    try:
        api.import_image_from_file(str(out / "base.tar"), *BASE.split(":"))
        for line in api.build(
            fileobj=_context(out / "recorder"),
            custom_context=True,
            tag=RECORDER,
            buildargs={"BASE": BASE},
            rm=True,
            decode=True,
        ):
            _check(line)
        for tag, path in archives.items():
            _save(api, tag, path)
        for tag in (RECORDER, BASE):
            api.remove_image(tag)
    finally:
        api.close()


def _context(recorder: Path) -> io.BytesIO:
    """Return what the Dockerfile sees, without times, so that the same binary is the same layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, name, mode in (
            (REPO / "images/recorder/Dockerfile", "Dockerfile", 0o644),
            (recorder, "recorder", 0o755),
        ):
            data = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def _save(api: docker.APIClient, tag: str, path: Path) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    chunks: Iterator[bytes] = api.get_image(tag)
    with draft.open("wb") as archive:
        archive.writelines(chunks)
    draft.rename(path)


def _check(line: dict[str, str]) -> None:
    if "error" in line:
        raise HostsError(f"image: {line['error']}")


def _command(*argv: str) -> str:
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=BUILD_LIMIT, stdin=None
    )
    if done.returncode:
        raise HostsError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
    return done.stdout
