"""What the recorder must know and answer: images/recorder/numbers.h in Python."""

from __future__ import annotations

import bisect
from collections import deque

FNV_OFFSET, FNV_PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, 2**64 - 1


class Model:
    """The numbers that a recorder has."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = FNV_OFFSET
        self._last: deque[int] = deque(maxlen=8)
        self._ordered: list[int] = []

    def record(self, number: int) -> str:
        """Record a number and return the acknowledgement that is due."""
        self.count += 1
        self._hash = self._hash_with(number)
        self._last.append(number)
        place = bisect.bisect_left(self._ordered, number)
        if self._ordered[place : place + 1] != [number]:
            self._ordered.insert(place, number)
        return f"ok {self.count} {number} {place + 1}"

    def report(self) -> str:
        """Return the answer to zero that is due, as far as the numbers go."""
        return self.report_with()

    def report_with(self, *numbers: int) -> str:
        """Return the report that would be due had these numbers been recorded too."""
        last = [*self._last, *numbers][-8:]
        value = self._hash_with(*numbers)
        count = self.count + len(numbers)
        return f"count={count} hash={value:016x} last={','.join(map(str, last))}"

    def _hash_with(self, *numbers: int) -> int:
        value = self._hash
        for byte in b"".join(number.to_bytes(8, "little", signed=True) for number in numbers):
            value = (value ^ byte) * FNV_PRIME & MASK
        return value
