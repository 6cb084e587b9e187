"""Patched kernels for guests, built once and kept in the cache; the module that goes with each."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.config import REPO, cache

from .disks import digest_of, kept
from .guest import command

PATCHES = REPO / "kernel-patch"
MODULE = REPO / "kmod"
VERSIONS = ("6.1", "6.12")
BUILD_LIMIT = 3 * 3600.0
MODULE_LIMIT = 300.0


@dataclass(frozen=True)
class Kernel:
    """A kernel of Debian's sources with our patch; `configs` go on top of kernel.config."""

    version: str
    configs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What tells it from the others, such as ``6.1-debug``."""
        return "-".join([self.version, *(name.removesuffix(".config") for name in self.configs)])

    @classmethod
    def named(cls, name: str) -> Kernel:
        """Return the one of that name."""
        version, *configs = name.split("-")
        return cls(version, tuple(f"{each}.config" for each in configs))

    def place(self) -> Path:
        """Return where it is kept, built or not."""
        return cache() / f"kernel-{self.name}-{self.digest()}"

    def directory(self) -> Path:
        """Return the directory that it was built in; that is done where the cache lacks it."""
        return kept(self.place(), self._build)

    def image(self) -> Path:
        """Return what QEMU boots."""
        return self.directory() / "bzImage"

    def module(self, place: Path) -> Path:
        """Build the module for it in a new directory, and return livemig.ko."""
        return build_module(self.directory(), place)

    def digest(self) -> str:
        """Return what it is made of: Debian's sources, our patches and configurations."""
        source = command("dpkg-query", "-W", "-f", "${Version}", f"linux-source-{self.version}")
        patches = sorted((PATCHES / self.version).iterdir())
        configs = [PATCHES / name for name in ("kernel.config", *self.configs)]
        return digest_of(source, PATCHES / "build.sh", *patches, *configs)

    def _build(self, draft: Path) -> None:
        build = PATCHES / "build.sh"
        command("nice", "-n", "10", build, self.version, draft, *self.configs, timeout=BUILD_LIMIT)


def build_module(kernel: Path, place: Path) -> Path:
    """Build the module in a new directory, for a kernel's build directory, without a warning."""
    shutil.copytree(MODULE, place, ignore=shutil.ignore_patterns("*.o", "*.ko", "selftest"))
    strict = ("W=1", "KCFLAGS=-Werror")
    command("make", "-s", "-C", place, f"KDIR={kernel}", *strict, timeout=MODULE_LIMIT)
    return place / "livemig.ko"


def selftest(place: Path) -> Path:
    """Build the module's selftests in a new directory, and return the program."""
    shutil.copytree(MODULE, place, ignore=shutil.ignore_patterns("*.o", "selftest"))
    command("make", "-s", "-C", place / "selftests", timeout=MODULE_LIMIT)
    return place / "selftests" / "selftest"


def check(version: str) -> str:
    """Unpack a version's sources and apply its patches; VmError where one does not fit as it is."""
    with tempfile.TemporaryDirectory(prefix="kernel-check.", dir="/var/tmp") as place:
        tree = Path(place)
        files = _touched(version)
        argv = ("tar", "-xf", f"/usr/src/linux-source-{version}.tar.xz", "-C", tree)
        command(
            *argv, "--strip-components=1", *(f"linux-source-{version}/{name}" for name in files)
        )
        for patch in sorted((PATCHES / version).iterdir()):
            command("patch", "-d", tree, "-p1", "--quiet", "--forward", "--fuzz=0", "-i", patch)
    return f"{version}: the patches apply to {', '.join(files)}"


def _touched(version: str) -> list[str]:
    lines = [
        line for patch in (PATCHES / version).iterdir() for line in patch.read_text().split("\n")
    ]
    return sorted({line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")})
