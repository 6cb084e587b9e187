"""A flag that a kernel has no name for is known by its place; the text is that of Linux 6.1.192."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from livemig.system import procfs, vmflags

ON_FAULT = """\
7f7b830f8000-7f7b830fa000 rw-p 00000000 00:00 0
Size:                  8 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   0 kB
Pss:                   0 kB
Pss_Dirty:             0 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
Referenced:            0 kB
Anonymous:             0 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                0 kB
THPeligible:    0
ProtectionKey:         0
VmFlags: rd wr mr mw me lo ?? ac sd
"""


def shows(monkeypatch: pytest.MonkeyPatch, flags: str) -> Iterator[None]:
    """Show a page of ours that is locked on fault with these flags."""
    monkeypatch.setattr(vmflags, "_own", lambda _: flags.split())
    vmflags._lacks_name.cache_clear()
    yield
    vmflags._lacks_name.cache_clear()


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be Linux 6.1."""
    yield from shows(monkeypatch, "rd wr mr mw me lo ?? ac sd")


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be Linux 6.12."""
    yield from shows(monkeypatch, "rd wr mr mw me lo lf ac sd")


@pytest.mark.usefixtures("old")
def test_memory_that_is_locked_on_fault_is_known() -> None:
    (found,) = procfs.parse_area_details(ON_FAULT.splitlines(keepends=True)).values()
    assert found == procfs.AreaDetails(frozenset("rd wr mr mw me lo lf ac sd".split()), 0)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(
    "line",
    ["rd wr mr mw me lo sr dc ?? nr sd nh", "rd mr mw me lo ?? sd", "rd mr mw me lo ??"],
    ids=["with others", "of a file", "the last one"],
)
def test_it_is_known_among_others(line: str) -> None:
    assert vmflags.named(line.split()) == {*line.split()} - {"??"} | {"lf"}


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(
    "line",
    ["rd mr ?? lo sd", "rd wr mr mw me ?? ac", "rd mr lo ac ??", "rd lo ?? ac ??", "rd lo ?? sr"],
    ids=["below", "not locked", "above", "two", "further below"],
)
def test_no_other_is_taken_for_it(line: str) -> None:
    assert vmflags.named(line.split()) == {*line.split()}


@pytest.mark.usefixtures("new")
def test_a_kernel_that_names_it_has_other_bits_without_a_name() -> None:
    assert vmflags.named("rd mr mw me lo ??".split()) == {"rd", "mr", "mw", "me", "lo", "??"}
