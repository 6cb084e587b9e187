"""The mremap device in a guest: selftests and random batches under a kernel that checks itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from livemig.model import LAYOUTS

from . import Guest, Parts, Size, VmError, disks, parcel, running, state_root
from .debian import slowness
from .kernels import BUILD_LIMIT, Kernel, build_module, selftest

ROOT_LIMIT = 3600.0
pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(BUILD_LIMIT + ROOT_LIMIT)]

ROOT_TESTS = " ".join(
    f"tests/root/test_{name}.py" for name in ("layout", "moves", "state", "tracker")
)
FUZZ_LIMIT = 1800.0
SEED = int(os.environ.get("LIVEMIG_SEED", "1"))
BATCHES = int(os.environ.get("LIVEMIG_BATCHES", "100000"))
KERNEL = Kernel(
    os.environ.get("LIVEMIG_KERNEL", "6.1"),
    tuple(os.environ.get("LIVEMIG_KERNEL_CONFIGS", "debug.config").split()),
)
# What the kernel says when something is wrong: lib/bug.c, kernel/locking/lockdep.c, mm/kasan.
COMPLAINT = re.compile(
    r"WARNING:|BUG:|INFO: .*(task|lock)|possible .* detected|suspicious RCU|Oops|KASAN|Call Trace"
)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Yield a guest with the patched kernel and the module loaded."""
    place = tmp_path_factory.mktemp("device")
    module = KERNEL.module(place / "kmod")
    program = selftest(place / "selftest")
    base = disks.debian()
    parts = Parts(KERNEL.image(), None, base / "disk.img", base / "key")
    with running(Guest(state_root() / "device", size=Size(cpus=2, memory=2048))) as made:
        made.start(parts)
        made.write("/root/livemig.ko", module.read_bytes())
        made.write("/root/selftest", program.read_bytes())
        made.run("chmod 0755 /root/selftest && dmesg --clear && insmod /root/livemig.ko")
        yield made


@pytest.fixture(autouse=True)
def _quiet(guest: Guest) -> Iterator[None]:
    """The kernel has nothing to complain of, whatever a test did."""
    yield
    log = guest.run("dmesg").stdout
    assert not COMPLAINT.search(log), log


def test_every_selftest_passes(guest: Guest) -> None:
    done = guest.run("/root/selftest", timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") >= 30


def test_random_batches_do_what_the_model_says(guest: Guest) -> None:
    done = guest.run(["/root/selftest", "fuzz", str(SEED), str(BATCHES)], timeout=FUZZ_LIMIT)
    assert f"ok fuzz {SEED}: {BATCHES} batches" in done.stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_are_laid_out_by_it_as_by_the_stub(guest: Guest, layout: str) -> None:
    parcel.send(guest)
    slow = slowness(guest)
    said = parcel.run_tests(guest, ROOT_TESTS, slow=slow, limit=ROOT_LIMIT, LIVEMIG_LAYOUT=layout)
    assert "test_what_was_chosen_lays_memory_out[device] PASSED" in said


def test_the_module_goes_and_comes_back(guest: Guest) -> None:
    guest.run("rmmod livemig && test ! -e /dev/livemig && insmod /root/livemig.ko")
    assert guest.run("stat -c %a /dev/livemig").stdout.strip() == "600"


def test_a_kernel_without_the_patch_is_told(tmp_path: Path) -> None:
    (tmp_path / "Module.symvers").touch()
    with pytest.raises(VmError, match="does not export ksys_mremap"):
        build_module(tmp_path, tmp_path / "kmod")
