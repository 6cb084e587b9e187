"""A moment in which no thread of a process runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from livemig.errors import ProcessGone
from livemig.system import procfs
from livemig.tracing import Tracee


@contextmanager
def paused(leader: Tracee) -> Iterator[None]:
    """Stop every thread of the process that ``leader`` is the first of, for the length of a scope.

    A thread in a system call that cannot be interrupted stops when that is over. Raises ProcessGone
    where the process ends.
    """
    with ExitStack() as scope:
        stopped: set[int] = set()
        while new := set(procfs.threads(leader.tid)) - stopped:
            for tid in sorted(new):
                _stop(leader if tid == leader.tid else Tracee(tid), leader.tid, scope)
            stopped |= new
        yield


def _stop(thread: Tracee, pid: int, scope: ExitStack) -> None:
    try:
        thread.attach()
        scope.callback(thread.detach)
        thread.stop()
    except ProcessGone:
        if thread.tid in procfs.threads(pid):
            raise
