"""The two machines, started once; what their kernels have to say is looked at after every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .kernellog import complaints
from .kernels import Kernel
from .machines import KERNEL, Pair, running_pair


def kernels() -> tuple[Kernel, Kernel]:
    """Return the kernels of vm1 and vm2: LIVEMIG_KERNELS names one for both, or two."""
    names = os.environ.get("LIVEMIG_KERNELS", KERNEL.name).split()
    return Kernel.named(names[0]), Kernel.named(names[-1])


@pytest.fixture(scope="session")
def machines() -> Iterator[Pair]:
    """Start both machines as they were saved, with the module and the plugin of this tree."""
    with running_pair(kernels()) as pair:
        _require_quiet(pair)
        yield pair


def _require_quiet(pair: Pair) -> None:
    said = {guest.name: complaints(guest) for guest in pair}
    assert not any(said.values()), said


@pytest.fixture
def quiet(machines: Pair) -> Iterator[None]:
    """Fail a test after which a kernel has something to complain of."""
    yield
    _require_quiet(machines)
