"""What two machines must have in common."""

from __future__ import annotations

from dataclasses import replace

import pytest

from docker_livemig.far import facts
from docker_livemig.machine import check_machine, has_foreign_vdso
from docker_livemig.requests import Hello
from livemig import vdso
from livemig.errors import MachineMismatch, ProtocolError
from livemig.wire import from_wire, to_wire
from tests import vdsos


@pytest.fixture
def here() -> Hello:
    return replace(facts("source"), host="here")


@pytest.fixture
def there(here: Hello) -> Hello:
    return replace(here, role="peer", host="there")


def test_two_machines_alike(here: Hello, there: Hello) -> None:
    check_machine(here, there)


def test_a_target_that_can_do_more(here: Hello, there: Hello) -> None:
    check_machine(here, replace(there, cpu_flags=[*there.cpu_flags, "amx_tile"]))


@pytest.mark.parametrize(("fact", "value"), [("arch", "riscv64"), ("page_size", 65536)])
def test_another_machine(here: Hello, there: Hello, fact: str, value: object) -> None:
    with pytest.raises(MachineMismatch, match=rf"^there: {fact} is {value}, here has"):
        check_machine(here, replace(there, **{fact: value}))  # type: ignore[arg-type]


def test_cpu_features_that_are_missing_are_all_named(here: Hello, there: Hello) -> None:
    source = replace(here, cpu_flags=["avx2", "avx512f", "sha_ni", "sse2"])
    target = replace(there, cpu_flags=["avx2", "sse2"])
    with pytest.raises(MachineMismatch, match="there: its CPU lacks avx512f, sha_ni, which here"):
        check_machine(source, target)


def test_a_cpu_with_more_registers_fits(here: Hello, there: Hello) -> None:
    more = ((2, 576, 256), (9, 2688, 8))
    check_machine(replace(here, xstate=more[:1]), replace(there, xstate=more))
    check_machine(here, replace(there, xstate=()))  # that does not tell


def test_a_cpu_that_keeps_its_registers_elsewhere(here: Hello, there: Hello) -> None:
    source = replace(here, xstate=((2, 576, 256), (9, 832, 8)))
    target = replace(there, xstate=((2, 576, 256), (9, 2688, 8)))
    with pytest.raises(MachineMismatch, match=r"^there: its CPU keeps PKRU .* like that of here$"):
        check_machine(source, target)
    with pytest.raises(MachineMismatch, match=r"^there: its CPU has no registers of PKRU like"):
        check_machine(source, replace(there, xstate=((2, 576, 256),)))


def test_this_machine_tells_of_its_registers(here: Hello) -> None:
    assert from_wire(Hello, to_wire(here)).xstate == here.xstate


def test_flags_that_are_no_instructions_do_not_count(here: Hello, there: Hello) -> None:
    check_machine(
        replace(here, cpu_flags=["sse2", "vmx", "smep"]), replace(there, cpu_flags=["sse2"])
    )


def test_a_kernel_that_has_names_for_less(here: Hello, there: Hello) -> None:
    """As Linux 6.12 and 6.1 tell of the same processor."""
    source = ["sse2", "xtopology", "user_shstk", "amd_lbr_pmc_freeze", "vnmi"]
    check_machine(replace(here, cpu_flags=source), replace(there, cpu_flags=["sse2"]))


def test_another_kernel() -> None:
    own = vdso.own().code
    assert not has_foreign_vdso(own)
    assert has_foreign_vdso(vdsos.other(own))


def test_a_kernel_that_lacks_what_the_sources_has() -> None:
    image = vdsos.renamed(vdso.own().code, "getcpu", "getcow")
    with pytest.raises(MachineMismatch, match="lacks getcow, which the source's has"):
        has_foreign_vdso(image)


def test_what_is_no_vdso() -> None:
    with pytest.raises(ProtocolError, match="the image of a vDSO has 16 bytes"):
        has_foreign_vdso(bytes(16))
