"""The extended state of one CPU fits another, or it is said what does not."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest

from livemig import xstate
from livemig.errors import MachineMismatch
from livemig.system.xsave import Component, components

AVX, MASKS, HALVES = Component(2, 576, 256), Component(5, 1088, 64), Component(6, 1152, 512)
UPPER, KEYS = Component(7, 1664, 1024), Component(9, 2688, 8)
INTEL = (AVX, MASKS, HALVES, UPPER, KEYS)
AMD_KEYS = Component(9, 832, 8)
SMALL, AMD = (AVX,), (AVX, AMD_KEYS)


def state(layout: Sequence[Component], in_use: int = 7, fill: int = 1) -> bytes:
    """Return a state of a CPU with these components, each byte of which is ``fill``."""
    size = max(each.offset + each.size for each in layout)
    data = bytearray([fill]) * size
    features = 3 | sum(1 << each.number for each in layout)
    struct.pack_into("=Q40x", data, 464, features)
    struct.pack_into("=Q56x", data, 512, in_use)
    return bytes(data)


def test_a_state_of_the_same_kind_stays_as_it_is() -> None:
    assert xstate.fitted(state(INTEL), state(INTEL, fill=2), INTEL) == state(INTEL)


@pytest.mark.parametrize("larger", [INTEL, AMD], ids=["intel", "amd"])
def test_a_larger_cpu_has_the_rest_as_before_its_first_use(larger: Sequence[Component]) -> None:
    own = state(larger, fill=2)
    found = xstate.fitted(state(SMALL), own, larger)
    assert len(found) == len(own)
    assert found[464:512] == own[464:512], "what the kernel tells of itself"
    assert found[:464] == state(SMALL)[:464]
    assert found[512:] == state(SMALL)[512:] + bytes(len(own) - 832)


def test_a_component_that_is_missing_here_is_named() -> None:
    with pytest.raises(MachineMismatch, match=r"no registers of AVX-512's masks, .*, PKRU, which"):
        xstate.fitted(state(INTEL), state(SMALL), SMALL)


def test_components_at_other_places_are_told() -> None:
    with pytest.raises(MachineMismatch, match=r"x87, SSE, AVX, PKRU in 2696 bytes, .* in 840$"):
        xstate.fitted(state(AMD), state(INTEL), INTEL)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(struct.error):
        xstate.fitted(bytes(16), state(INTEL), INTEL)
    with pytest.raises(MachineMismatch, match="XSAVE's component 60"):
        xstate.fitted(state((*INTEL, Component(60, 4096, 8))), state(INTEL), INTEL)


@pytest.mark.parametrize("target", [INTEL, AMD, SMALL], ids=["intel", "amd", "small"])
def test_a_target_with_the_same_and_more_fits(target: Sequence[Component]) -> None:
    assert xstate.mismatch(SMALL, target) == ""


def test_a_target_that_does_not_fit_is_told() -> None:
    assert xstate.mismatch(INTEL, AMD) == "has no registers of AVX-512's masks"
    assert xstate.mismatch(AMD, INTEL) == "keeps PKRU as 8 bytes at 2688, not as 8 bytes at 832"


def test_this_machines_components_lie_behind_each_other() -> None:
    found = sorted(components(), key=lambda each: each.offset)
    assert all(each.offset >= 576 and each.size for each in found)
    assert all(below.offset + below.size <= above.offset for below, above in pairwise(found))
