"""Control groups of a host's containers: dockerd leaves their directories behind."""

from __future__ import annotations

import contextlib
import os
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


def remove_cgroups(parent: str) -> None:
    """Remove `parent` everywhere, with all below it; one that is in use stays."""
    for root in roots(parent):
        for top, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):
                Path(top).rmdir()
