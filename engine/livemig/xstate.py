"""The extended state of a thread on another CPU than the one it was saved on.

The kernel takes a state of exactly its own size (arch/x86/kernel/fpu/regset.c, xstateregs_set),
with each component where CPUID says that this CPU has it. The frames of signals on the program's
stacks may be smaller, but have the same places. So a CPU with more components takes the state of
one with fewer, where those that both have lie at the same places: Intel's and AMD's do not always.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from livemig.errors import MachineMismatch
from livemig.system import ptrace, xsave
from livemig.system.xsave import Component

_FEATURES_AT, _LEGACY, _HEADER = 464, 512, 576  # sw_reserved, whose first word is XCR0; XSTATE_BV
_HINT = "move it to a host whose CPU has the registers of this one, and keeps them as it does"
_NAMES = {
    0: "x87",
    1: "SSE",
    2: "AVX",
    3: "MPX's bounds",
    4: "MPX's configuration",
    5: "AVX-512's masks",
    6: "AVX-512's upper halves",
    7: "AVX-512's upper registers",
    9: "PKRU",
    17: "AMX's configuration",
    18: "AMX's tiles",
    19: "APX",
}


def on_this_cpu(tid: int, state: bytes) -> bytes:
    """Return ``state`` as stopped thread ``tid`` of this machine takes it; see ``fitted``."""
    return fitted(state, ptrace.get_xstate(tid), xsave.components())


def fitted(state: bytes, own: bytes, layout: Sequence[Component]) -> bytes:
    """Return ``state`` in the form in which this machine's kernel takes and gives it.

    Both states are in XSAVE's standard format; ``own`` is any of this machine, whose components lie
    as ``layout`` says. What the CPU of ``state`` had not, is as it is before its first use, but for
    PKRU: there, as on a CPU without keys, nothing is forbidden.
    Raises MachineMismatch, naming what does not fit.
    """
    there, here = _features(state), _features(own)
    if there == here and len(state) == len(own):
        return state
    if lacking := there & ~here:
        raise MachineMismatch(
            f"the CPU here has no registers of {_named(lacking)}, which the source's has",
            hint=_HINT,
        )
    size = max([_HEADER, *(each.offset + each.size for each in layout if there >> each.number & 1)])
    if len(state) != size:
        raise MachineMismatch(
            f"the CPU here keeps {_named(there)} in {size} bytes, the source's in {len(state)}",
            hint=_HINT,
        )
    return b"".join(
        (
            state[:_FEATURES_AT],
            own[_FEATURES_AT:_LEGACY],
            state[_LEGACY:],
            bytes(len(own) - len(state)),
        )
    )


def mismatch(source: Sequence[Component], target: Sequence[Component]) -> str:
    """Return what of the ``source``'s components does not fit the ``target``'s; empty if all do."""
    here = {each.number: each for each in target}
    for each in source:
        found, name = here.get(each.number), _named(1 << each.number)
        if found is None:
            return f"has no registers of {name}"
        if found != each:
            place = f"{each.size} bytes at {each.offset}"
            return f"keeps {name} as {found.size} bytes at {found.offset}, not as {place}"
    return ""


def _features(state: bytes) -> int:
    return int(struct.unpack_from("=Q", state, _FEATURES_AT)[0])


def _named(features: int) -> str:
    numbers = (number for number in range(64) if features >> number & 1)
    return ", ".join(_NAMES.get(number, f"XSAVE's component {number}") for number in numbers)
