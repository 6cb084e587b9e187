"""What becomes of the source's layout where this kernel maps another vDSO."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livemig import vdso
from livemig.errors import MachineMismatch, ProtocolError
from livemig.inject.foreign import ForeignVdso
from livemig.model import Kind, Mapping, VdsoImage
from livemig.system.memory import PAGE_SIZE, USER_END
from tests import vdsos

OWN = vdso.own()
SIZE = OWN.before + len(OWN.code)
HOME = 0x7FFF_1000_0000
DATA = Mapping(HOME, HOME + OWN.before, 1, Kind.VVAR)
CODE = Mapping(DATA.end, DATA.end + len(OWN.code), 5, Kind.VDSO)
STACK = Mapping(0x7FFE_0000_0000, 0x7FFE_0010_0000, 3, Kind.STACK)
LAYOUT = (STACK, DATA, CODE)
COPY = replace(CODE, start=CODE.start + 4 * SIZE, end=CODE.end + 4 * SIZE, kind=Kind.FOREIGN)
STUB = 0x180_0000_0000


def image(mapping: Mapping, code: bytes) -> VdsoImage:
    return VdsoImage(mapping.start, code)


def test_the_same_vdso_stays_one() -> None:
    assert ForeignVdso().follow(LAYOUT, [image(CODE, OWN.code)]) == LAYOUT


def test_another_one_becomes_a_copy_and_its_data_memory() -> None:
    here = ForeignVdso().follow(LAYOUT, [image(CODE, vdsos.other(OWN.code))])
    assert here == (STACK, replace(DATA, kind=Kind.ANONYMOUS), replace(CODE, kind=Kind.FOREIGN))


def test_beside_a_copy_another_one_is_left_out() -> None:
    led = vdso.lead(OWN.code, {})
    foreign = ForeignVdso()
    codes = [image(CODE, vdsos.other(OWN.code)), image(COPY, led)]
    assert foreign.follow((*LAYOUT, COPY), codes) == (STACK, COPY)
    assert ForeignVdso().follow((*LAYOUT, COPY), [image(CODE, OWN.code), codes[1]]) == (
        *LAYOUT,
        COPY,
    )


def test_code_comes_once_and_goes_with_its_mapping() -> None:
    foreign = ForeignVdso()
    here = foreign.follow(LAYOUT, [image(CODE, vdsos.other(OWN.code))])
    assert foreign.follow(LAYOUT, []) == here
    assert foreign.follow((STACK,), []) == (STACK,)
    with pytest.raises(
        ProtocolError, match=f"the code of the vDSO at {CODE.start:#x} did not come"
    ):
        foreign.follow(LAYOUT, [])


@pytest.mark.parametrize("code", [OWN.code[:PAGE_SIZE], OWN.code + bytes(PAGE_SIZE), b""])
def test_code_of_another_length_is_refused(code: bytes) -> None:
    with pytest.raises(ProtocolError, match="did not come, or not all"):
        ForeignVdso().follow(LAYOUT, [image(CODE, code)])


def test_code_that_is_longer_than_any_vdso_is_refused() -> None:
    long = replace(COPY, end=COPY.start + vdso.MAX_IMAGE + PAGE_SIZE)
    code = vdso.lead(OWN.code, {}).ljust(long.length, b"\0")
    with pytest.raises(ProtocolError, match="did not come, or not all"):
        ForeignVdso().follow((long,), [image(long, code)])


def test_two_vdsos_are_refused() -> None:
    other = replace(COPY, kind=Kind.VDSO)
    with pytest.raises(ProtocolError, match="two vDSOs"):
        ForeignVdso().follow((*LAYOUT, other), [image(CODE, OWN.code), image(other, OWN.code)])


def test_a_copy_that_would_lead_nowhere_is_refused() -> None:
    code = vdsos.renamed(vdso.lead(OWN.code, {}), "getcpu", "getcow")
    with pytest.raises(MachineMismatch, match="lacks getcow"):
        ForeignVdso().follow((COPY,), [image(COPY, code)])
    with pytest.raises(ProtocolError):
        ForeignVdso().follow((COPY,), [image(COPY, bytes(len(code)))])


# Where this kernel's own goes


def test_it_is_above_the_stack() -> None:
    data, code = ForeignVdso()._place(LAYOUT, STUB)
    assert (data.start, data.end, code.end) == (STACK.end, code.start, STACK.end + SIZE)


def test_what_is_there_is_left_alone() -> None:
    above = Mapping(STACK.end + PAGE_SIZE, STACK.end + 3 * PAGE_SIZE, 3, Kind.ANONYMOUS)
    data, _ = ForeignVdso()._place((STACK, above, DATA, CODE), STUB)
    assert data.start == above.end


def test_without_room_above_the_stack_it_is_beside_the_stub() -> None:
    top = replace(STACK, start=USER_END - PAGE_SIZE, end=USER_END)
    data, _ = ForeignVdso()._place((top,), STUB)
    assert STUB < data.start < STUB + (1 << 30)


def test_a_full_layout_has_no_room() -> None:
    whole = Mapping(0x10000, USER_END, 3, Kind.ANONYMOUS)
    with pytest.raises(ProtocolError, match="no room for this kernel's vDSO"):
        ForeignVdso()._place((whole,), STUB)
