"""The shape of a msgpack object, looked at before memory is taken for it.

A decoder makes room for what a header claims, and a byte can stand for an object of 72: so nesting
and the number of items are bounded here first. Source: the msgpack specification.
"""

from __future__ import annotations

MAX_DEPTH = 32
MAX_ITEMS = 1 << 20

_NOTHING = -1


def check_shape(packed: bytes | memoryview) -> None:
    """Raise ValueError unless ``packed`` is one object of at most MAX_ITEMS in MAX_DEPTH levels.

    An item is an element of an array, or a key or a value of a map. Contents are not looked at.
    """
    end, at, items = len(packed), 0, 0
    left = [1]
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        if at >= end:
            raise ValueError("it ends too early")
        if step := _STEPS[packed[at]]:
            at += step
            continue
        at, count = _variable(packed, at)
        if count == _NOTHING:
            continue
        items += count
        if items > MAX_ITEMS:
            raise ValueError(f"it has more than {MAX_ITEMS} items")
        if count > end - at:
            raise ValueError("it ends too early")
        if len(left) > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} levels")
        left.append(count)
    if at != end:
        raise ValueError("it is more than one object, or ends too early")


def _steps() -> list[int]:
    """Return by its first byte how long an object without items is, 0 for those that vary."""
    steps = [1] * 0x80 + [0] * 0x20 + [1 + size for size in range(0x20)] + [0] * 0x20 + [1] * 0x20
    for first, sizes in ((0xC0, (1,)), (0xC2, (1, 1)), (0xCA, (5, 9, 2, 3, 5, 9, 2, 3, 5, 9))):
        steps[first : first + len(sizes)] = sizes
    steps[0xD4:0xD9] = (3, 4, 6, 10, 18)
    return steps


_STEPS = _steps()
# First byte: how many bytes of length follow, what is beside content, and items for each of these.
_LENGTHS = {
    **{0xC4 + power: (1 << power, 0, 0) for power in range(3)},
    **{0xC7 + power: (1 << power, 1, 0) for power in range(3)},
    **{0xD9 + power: (1 << power, 0, 0) for power in range(3)},
    **{0xDC + power: (2 << power, 0, 1) for power in range(2)},
    **{0xDE + power: (2 << power, 0, 2) for power in range(2)},
}


def _variable(packed: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return where the object at ``at`` goes on, or ends, and how many items it has."""
    first = packed[at]
    at += 1
    if first < 0xA0:
        return at, (first & 0xF) << (first < 0x90)
    if first not in _LENGTHS:
        raise ValueError(f"no object begins with {first:#x}")
    width, beside, items = _LENGTHS[first]
    length = int.from_bytes(packed[at : at + width], "big")
    at += width
    return (at, length * items) if items else (at + beside + length, _NOTHING)
