"""The tests of tests/root in a guest that has no more than Python: what they need is sent there."""

from __future__ import annotations

import io
import subprocess
import sysconfig
import tarfile
import tempfile
from pathlib import Path

from tests.hosts.config import REPO
from tests.programs import copy_to

from .guest import Guest
from .qmp import VmError

PLACE = "/root/parcel"
BUILT = ("stub.bin", "livemig-hold")
NOT_NEEDED = ("mypy", "ruff", "pip", "setuptools", "docker_livemig", "__editable__")
LIMIT = 300.0


def send(guest: Guest) -> None:
    """Put the tracked files, the built programs and this Python's packages into a guest.

    VmError where its Python is another than this one: it could not load the packages.
    """
    here = sysconfig.get_python_version()
    there = guest.run("python3 -c 'import sysconfig; print(sysconfig.get_python_version())'")
    if there.stdout.strip() != here:
        raise VmError(f"{guest.name} has Python {there.stdout.strip()}, and this machine {here}")
    script = f"rm -rf {PLACE} && mkdir {PLACE} && tar -xz -C {PLACE}"
    guest.run(script, input=_packed(), timeout=LIMIT)


def run_tests(guest: Guest, tests: str, *, slow: float, limit: float, **settings: str) -> str:
    """Run tests in the guest, and return what pytest wrote; VmError unless all pass or are skipped.

    ``slow`` says how much longer than usual each may take, ``settings`` are for its environment.
    """
    words = {
        "PYTHONPATH": ":".join(f"{PLACE}/{name}" for name in ("engine", "plugin", "packages")),
        "LIVEMIG_PROGRAMS": f"{PLACE}/programs",
        "LIVEMIG_SLOW": f"{slow:g}",
        **settings,
    }
    environment = " ".join(f"{name}={value}" for name, value in words.items())
    pytest = "python3 -m pytest -v --durations=0 -p no:cacheprovider"
    script = f"cd {PLACE} && env {environment} {pytest} {tests} 2>&1"
    return guest.run(script, timeout=limit).stdout


def _packed() -> bytes:
    names = subprocess.run(
        ["git", "-C", str(REPO), "ls-files", "-z", "engine", "plugin", "tests", "pyproject.toml"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split("\0")[:-1]
    names += [f"engine/livemig/stub/{name}" for name in BUILT]
    packages = Path(sysconfig.get_path("platlib"))
    buffer = io.BytesIO()
    with (
        tempfile.TemporaryDirectory(prefix="parcel.") as draft,
        tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar,
    ):
        for name in names:
            tar.add(REPO / name, name)
        for each in packages.iterdir():
            if not each.name.startswith(NOT_NEEDED) and "mypyc" not in each.name:
                tar.add(each, f"packages/{each.name}", filter=_needed)
        copy_to(Path(draft))
        tar.add(draft, "programs")
    return buffer.getvalue()


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name or "/tests/" in member.name else member
