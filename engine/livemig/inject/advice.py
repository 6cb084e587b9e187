"""Give memory of the held process the flags that it had: madvise(2), mlock(2), mseal(2)."""

from __future__ import annotations

from collections.abc import Sequence

from livemig.errors import NotCarried
from livemig.inject.held import Held
from livemig.intervals import Span
from livemig.layout import Flags
from livemig.model import Mapping
from livemig.stub import CallFailed, Table
from livemig.system.numbers import (
    NR_MADVISE,
    NR_MLOCK,
    NR_MLOCK2,
    NR_MLOCKALL,
    NR_MSEAL,
    NR_MUNLOCK,
)

_ADVICE = {  # by VmFlags: what gives it, what takes it away
    "dd": ("MADV_DONTDUMP", 16, 17),
    "dc": ("MADV_DONTFORK", 10, 11),
    "wf": ("MADV_WIPEONFORK", 18, 19),
    "mg": ("MADV_MERGEABLE", 12, 13),
    "hg": ("MADV_HUGEPAGE", 14, None),
    "nh": ("MADV_NOHUGEPAGE", 15, None),
    "sr": ("MADV_SEQUENTIAL", 2, 0),
    "rr": ("MADV_RANDOM", 1, 0),
}
_DROPPABLE = frozenset(("dd", "wf"))  # which MAP_DROPPABLE brings
_MLOCK_ONFAULT = 1
_MADV_GUARD_INSTALL = 102
_BATCH = 800


def add_advice(table: Table, span: tuple[int, int], before: Flags, after: Flags) -> None:
    """Add the calls that lead from the flags that a span has to those that it is to have."""
    start, length = span[0], span[1] - span[0]
    old, new = set(before), set(after)
    if "dp" in new:
        old |= _DROPPABLE
    for taken in (True, False):  # what MADV_NORMAL takes away, may be given again
        for flag in (old - new) if taken else (new - old):
            if flag not in _ADVICE:
                continue
            name, give, take = _ADVICE[flag]
            advice = take if taken else give
            if advice is not None:
                table.call(f"{name} at {start:#x}", NR_MADVISE, start, length, advice)
    _add_lock(table, start, length, old, new)


def _add_lock(table: Table, start: int, length: int, old: set[str], new: set[str]) -> None:
    if old & {"lo", "lf"} == new & {"lo", "lf"}:
        return
    if "lo" not in new:
        table.call(f"munlock at {start:#x}", NR_MUNLOCK, start, length)
        return
    table.call(f"mlock2 at {start:#x}", NR_MLOCK2, start, length, _MLOCK_ONFAULT)
    if "lf" not in new:
        # It is locked by now; what cannot be populated (PROT_NONE) makes this one fail.
        table.call(f"mlock at {start:#x}", NR_MLOCK, start, length, may_fail=True)


def set_guards(held: Held, guards: Sequence[Span]) -> None:
    """Let pages fault though they are mapped; NotCarried where this kernel cannot do that."""
    for first in range(0, len(guards), _BATCH):
        table = held.stub.table()
        for start, end in guards[first : first + _BATCH]:
            arguments = (start, end - start, _MADV_GUARD_INSTALL)
            table.call(f"MADV_GUARD_INSTALL at {start:#x}", NR_MADVISE, *arguments)
        try:
            held.stub.run(table)
        except CallFailed as error:
            raise NotCarried(
                f"process {held.pid}: guard pages (MADV_GUARD_INSTALL) at {guards[0][0]:#x} are "
                f"refused on the target: {error}",
                hint="they need Linux 6.13 or later there",
            ) from error


def lock_future(held: Held, flags: int) -> None:
    """Let all that the process will map be locked (mlockall(2), MCL_FUTURE)."""
    if flags:
        table = held.stub.table()
        table.call("mlockall", NR_MLOCKALL, flags)
        held.stub.run(table)


def seal(held: Held, mappings: Sequence[Mapping]) -> None:
    """Seal what was sealed (mseal(2)): nothing changes it any more."""
    sealed = [each for each in mappings if "sl" in each.flags]
    for first in range(0, len(sealed), _BATCH):
        table = held.stub.table()
        for each in sealed[first : first + _BATCH]:
            table.call(f"mseal at {each.start:#x}", NR_MSEAL, each.start, each.length, 0)
        held.stub.run(table)
