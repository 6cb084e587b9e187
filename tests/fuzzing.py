"""Mutations that a seed repeats: LIVEMIG_SEED replays a run, LIVEMIG_FUZZ multiplies its length."""

from __future__ import annotations

import os
import random

SEED = int(os.environ.get("LIVEMIG_SEED", "0"))
_FACTOR = float(os.environ.get("LIVEMIG_FUZZ", "1"))
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF)


def scaled(count: int) -> int:
    """Return how many of something are to be tried."""
    return max(int(count * _FACTOR), 1)


def mutated(chance: random.Random, data: bytes, *, unit: int = 1) -> bytes:
    """Return ``data`` with a few changes: bytes and blocks of ``unit`` bytes, and its length."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        if found:
            _mutate(chance, found, unit)
    return bytes(found)


def _mutate(chance: random.Random, data: bytearray, unit: int) -> None:
    at = chance.randrange(len(data))
    block = at // unit * unit
    what = chance.randrange(7)
    if what == 0:
        data[at] ^= 1 << chance.randrange(8)
    elif what == 1:
        data[at] = chance.choice(_NUMBERS)
    elif what == 2:
        data[at : at + 8] = chance.randbytes(min(8, len(data) - at))
    elif what == 3:
        del data[block : block + unit * chance.randint(1, 4)]
    elif what == 4:
        other = chance.randrange(len(data)) // unit * unit
        data[block:block] = data[other : other + unit * chance.randint(1, 4)]
    elif what == 5:
        del data[at:]
    else:
        data[at] = ord(chance.choice("0123456789-./x"))
