"""Control groups of a host's containers: dockerd leaves their directories behind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def roots(parent: str) -> Iterator[Path]:
    """Yield the directory called `parent` in each hierarchy (v1), or in the only one (v2)."""
    for place in (CGROUPS, *sorted(CGROUPS.iterdir())):
        found = place / parent
        if found.is_dir() and not place.is_symlink():
            yield found


def below(parent: str) -> set[str]:
    """Return every control group below `parent`."""
    return {
        str(Path(top)) for root in roots(parent) for top, _, _ in os.walk(root) if Path(top) != root
    }


def kill_frozen(parent: str) -> None:
    """Kill what is in these control groups, and thaw it, so that it dies: it runs no instruction.

    SIGKILL does not end what a freezer of cgroup v1 holds, and the end of a host waits for it.
    """
    for root in roots(parent):
        for top, _, _ in os.walk(root, topdown=False):
            state = Path(top) / "freezer.state"
            with contextlib.suppress(OSError):
                if state.read_text() != "THAWED\n":
                    for pid in (Path(top) / "cgroup.procs").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                    state.write_text("THAWED")


def remove_cgroups(parent: str) -> None:
    """Remove `parent` everywhere, with all below it; one that is in use stays."""
    for root in roots(parent):
        for top, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):
                Path(top).rmdir()
