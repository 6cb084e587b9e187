"""The OCI bundle of a running container: what Docker told the runtime."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from livemig.errors import InternalError
from livemig.system import procfs


def read_bundle(pid: int) -> dict[str, Any]:
    """Return the configuration (config.json) of the container whose first process is ``pid``."""
    shim = int(procfs.read_status(pid)["PPid"])
    config = Path(f"/proc/{shim}/cwd/config.json")
    try:
        found: dict[str, Any] = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise InternalError(f"the OCI bundle of process {pid} cannot be read: {error}") from error
    return found


def seccomp_profile(pid: int) -> bytes:
    """Return a digest of the seccomp profile that Docker gave the container of process ``pid``.

    Empty without a profile. The filter that runc makes of a profile differs from start to start
    (it adds the architectures in the order of a Go map), so profiles are compared, not filters.
    """
    profile = (read_bundle(pid).get("linux") or {}).get("seccomp")
    if not profile:
        return b""
    text = json.dumps(_sorted(profile), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _sorted(value: Any) -> Any:
    """Return a copy in which the order of lists does not matter any more."""
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(each) for each in value), key=json.dumps)
    return value
