"""The mremap device in a guest: selftests and random batches under a kernel that checks itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from livemig.model import DEVICE, LAYOUTS
from tests.hosts import in_both

from . import Guest, VmError, clone, make
from .conftest import kernels
from .kernels import build_module, selftest
from .machines import MODULE, Pair, random_addresses

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("quiet"), pytest.mark.timeout(1800)]

PROGRAM = "/root/selftest"
CHOSEN = (
    "tests/root/test_layout.py",
    "tests/root/test_mapped_files.py",
    "'tests/root/test_relocation.py::test_what_was_moved_is_not_sent_again[soft-dirty-grown-before-the-last]'",
    "'tests/root/test_moves.py::test_all_is_as_it_was[freezer-v2-live]'",
)
EVERY = "layout mapped_files moves relocation state told_moves tracker vdso"
MAY_LACK = (
    "this processor has no,PAGEMAP_SCAN,no freezer of cgroup,count system calls,time slice,"
    "no getrandom,no droppable,no guarded,no late-guard,no memory-merge,no no-writable-code,"
    "no sealed,no slice,no local-segment,no memory-policy"
)
"""What Linux 6.1, our configuration, an emulated processor or one version of cgroup is without."""
LACKS = {"6.1": "PAGEMAP_SCAN", "6.12": ""}
"""What the chosen tests may be skipped for: a tracker takes Linux 6.7."""
SKIPPED = {"6.1": {"sealed"}, "6.12": set[str]()}
"""Selftests that cannot run: mseal(2) is of Linux 6.10."""
ROOT_LIMIT = 5400.0
FUZZ_LIMIT = 1800.0
SEED = int(os.environ.get("LIVEMIG_SEED", "1"))
BATCHES = int(os.environ.get("LIVEMIG_BATCHES", "100000"))
FEW = 1000


@pytest.fixture(scope="module")
def guest(machines: Pair, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """Put the selftests into the first of the two machines."""
    guest = machines[0]
    program = selftest(tmp_path_factory.mktemp("device") / "selftest")
    guest.write(PROGRAM, program.read_bytes(), 0o755)
    return guest


def test_every_selftest_passes(guest: Guest) -> None:
    done = guest.run(PROGRAM, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {name: verdict for verdict, name in map(str.split, done.stdout.splitlines())}
    skipped = {name for name, verdict in verdicts.items() if verdict == "skip"}
    assert skipped == SKIPPED[kernels()[0].version]
    assert len(verdicts) >= 46


@pytest.mark.parametrize("batches", [FEW, pytest.param(BATCHES, marks=pytest.mark.long)])
def test_random_batches_do_what_the_model_says(guest: Guest, batches: int) -> None:
    """Two callers at once, each with its own seed."""

    def run(seed: int) -> None:
        done = guest.run([PROGRAM, "fuzz", str(seed), str(batches // 2)], timeout=FUZZ_LIMIT)
        assert f"ok fuzz {seed}: {batches // 2} batches" in done.stdout

    in_both((SEED, SEED + 1), run)


def laid_out(guest: Guest, layout: str, lacks: str, *tests: str) -> None:
    """Run tests of tests/root in the guest, out of a fresh clone, and see that all pass.

    ``lacks`` are parts of the reasons for which they may be skipped, with commas between them.
    """
    clone(guest)
    how = (f"LIVEMIG_LAYOUT={layout}", "LIVEMIG_REQUIRE=root", f"LIVEMIG_MAY_LACK='{lacks}'")
    with random_addresses(guest):
        said = make(guest, "test", f'TESTS="{" ".join(tests)}"', *how, limit=ROOT_LIMIT)
    assert "test_what_was_chosen_lays_memory_out[device] PASSED" in said


def test_processes_are_laid_out_by_it(guest: Guest) -> None:
    laid_out(guest, DEVICE, LACKS[kernels()[0].version], *CHOSEN)


@pytest.mark.long
@pytest.mark.timeout(ROOT_LIMIT)
def test_whatever_a_process_has_is_laid_out_by_it_as_by_the_stub(machines: Pair) -> None:
    """By the device in one machine, with cgroup v2, and by the stub in the other, with v1."""
    layouts = dict(zip(machines, LAYOUTS, strict=True))
    files = [f"tests/root/test_{name}.py" for name in EVERY.split()]
    in_both(machines, lambda guest: laid_out(guest, layouts[guest], MAY_LACK, *files))


def test_the_module_goes_and_comes_back(guest: Guest) -> None:
    guest.run(f"rmmod livemig && test ! -e /dev/livemig && insmod {MODULE}")
    assert guest.run("stat -c %a /dev/livemig").stdout.strip() == "600"


def test_a_kernel_without_the_patch_is_told(tmp_path: Path) -> None:
    (tmp_path / "Module.symvers").touch()
    with pytest.raises(VmError, match="does not export ksys_mremap"):
        build_module(tmp_path, tmp_path / "kmod")
