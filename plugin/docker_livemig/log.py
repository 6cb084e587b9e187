"""What the peers of this host did, in a file: two lines a move, and the tracebacks of defects."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from livemig.errors import InternalError, readable

LOG = Path(os.environ.get("LIVEMIG_LOG") or "/var/log/livemig.log")


@contextmanager
def noted(what: str) -> Iterator[None]:
    """Note that something begins, and how it ends."""
    note(what)
    try:
        yield
    except Exception as error:
        note(f"{what}: {type(error).__name__}: {error}")
        raise
    note(f"{what}: done")


def note(text: str) -> None:
    """Append ``text`` with the time; what cannot be noted is not worth an error."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with suppress(OSError), _open() as file:
        # Others have a say in it: no line of theirs begins like one of ours.
        shown = readable(text.encode(errors="backslashreplace").decode())
        lines = "\n    ".join(shown.rstrip().splitlines())
        file.write(f"{stamp} [{os.getpid()}] {lines}\n")


def _open() -> TextIO:
    return LOG.open("a", encoding="utf-8", errors="backslashreplace")


def defect(error: Exception) -> InternalError:
    """Note the traceback of an exception that nothing foresaw; return the error that names it."""
    note("".join(traceback.format_exception(error)))
    where = traceback.extract_tb(error.__traceback__)[-1]
    return InternalError(
        f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})",
        hint=f"this is a defect; the traceback is in {LOG} on {os.uname().nodename}",
    )
