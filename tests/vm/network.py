"""How this machine reaches Debian's packages and PyPI, taken over into a guest.

Nothing is known here of any mirror or proxy: apt and pip are asked what they use.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from .guest import Guest

MACHINE = "10.0.2.2"  # what a guest of QEMU's user-mode network calls this machine's loopback
LOOPBACK = re.compile(r"\b(127\.\d+\.\d+\.\d+|localhost)\b|\[::1\]")
RELEASES = ("bookworm", "bookworm-updates", "bookworm-security")
DEBIAN = "http://deb.debian.org"
DEFAULT = [
    f"{DEBIAN}/debian bookworm main",
    f"{DEBIAN}/debian bookworm-updates main",
    f"{DEBIAN}/debian-security bookworm-security main",
]
APT = re.compile(r"Acquire::(https?::|Check-|Retries|Force|Max-ValidTime)")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
PIP = ("index-url", "extra-index-url", "proxy", "trusted-host", "default-timeout", "timeout")
CERTIFICATES = "/etc/ssl/livemig-machine.pem"


def sources() -> list[str]:
    """Return Debian 12's own sources as this machine has them (URI, release, component)."""
    wanted = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines = _lines("apt-get", "indextargets", "--format", wanted, "Created-By: Packages")
    found = [line for line in lines if line.split()[1:] in [[name, "main"] for name in RELEASES]]
    return list(dict.fromkeys(found)) or DEFAULT


def mirror() -> str:
    """Return where this machine has Debian 12's packages from."""
    return next((line.split()[0] for line in sources() if " bookworm " in line), DEFAULT[0])


def take_over(guest: Guest) -> None:
    """Let a guest's apt and pip reach what those of this machine reach."""
    for path, data in files().items():
        guest.write(path, LOOPBACK.sub(MACHINE, data))


def files() -> dict[str, str]:
    """Return the files by which apt and pip of a Debian 12 do as those of this machine."""
    options = [line for line in _lines("apt-config", "dump", "Acquire") if APT.match(line)]
    proxies = {name: value for name, value in os.environ.items() if name.lower() in PROXIES}
    pip = _pip_settings()
    found = {
        "/etc/apt/sources.list": "".join(f"deb {line}\n" for line in sources()),
        "/etc/apt/apt.conf.d/90machine": _lines_of(options),
        "/etc/environment": _lines_of(f'{k}="{v}"' for k, v in proxies.items()),
    }
    if bundle := _certificates(pip):
        found[CERTIFICATES] = bundle.read_text()
        pip["cert"] = CERTIFICATES
    settings = _lines_of(f"{key} = {value}" for key, value in pip.items())
    return {**found, "/etc/pip.conf": f"[global]\n{settings}"}


def _lines_of(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _pip_settings() -> dict[str, str]:
    """Return pip's settings, of files and environment, that are about the network."""
    found = {}
    for line in _lines(sys.executable, "-m", "pip", "config", "list"):
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        words = str(ast.literal_eval(value)).split()
        # What is a file here is none there.
        words = [word for word in words if urlsplit(word).scheme != "file"]
        if words and key in (*PIP, "cert"):
            found[key] = " ".join(words)
    return found


def _certificates(pip: dict[str, str]) -> Path | None:
    """Return the authorities that this machine trusts, where it was told of them by hand."""
    named = pip.get("cert") or os.environ.get("SSL_CERT_FILE")
    return Path(named) if named and Path(named).is_file() else None


def _lines(*argv: str) -> list[str]:
    if shutil.which(argv[0]) is None:  # a machine that is not a Debian
        return []
    done = subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return done.stdout.splitlines()
