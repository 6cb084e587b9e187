"""A userfaultfd that belongs to another process."""

from __future__ import annotations

import os

from livemig.infect import Loan
from livemig.system import handles, procfs, uffd
from livemig.system.numbers import NR_CLOSE, NR_USERFAULTFD
from livemig.tracker.base import lacking


def planted(loan: Loan | None, name: str, features: int = 0) -> int:
    """Return a userfaultfd with these features in the process of a borrowed thread, or in ours.

    Raises KernelLacks, for the tracker ``name``, where the kernel has none, or lacks a feature.
    """
    try:
        descriptor = uffd.create() if loan is None else _plant(loan)
    except OSError as error:
        raise lacking(f"userfaultfd ({error})", name) from error
    try:
        uffd.enable(descriptor, features)
    except OSError as error:
        os.close(descriptor)
        what = "asynchronous write-protection by " if features & uffd.FEATURE_WP_ASYNC else ""
        raise lacking(f"{what}userfaultfd ({error})", name) from error
    return descriptor


def _plant(loan: Loan) -> int:
    """Make a userfaultfd in the process of a borrowed thread, take it, and close it there.

    Our death closes it, too. Raises OSError where the kernel or its configuration has none.
    """
    pid = loan.memory.pid
    taken = set(procfs.descriptors(pid))
    lowest = next(number for number in range(len(taken) + 1) if number not in taken)
    with loan.undone_by(NR_CLOSE, lowest):
        number = loan.call("userfaultfd", NR_USERFAULTFD, uffd.CREATE_FLAGS)
        pidfd = os.pidfd_open(pid)
        try:
            return handles.fetch_descriptor(pidfd, number)
        finally:
            os.close(pidfd)
            loan.call("close", NR_CLOSE, number)
