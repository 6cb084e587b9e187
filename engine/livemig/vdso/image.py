"""The functions that the image of a vDSO exports, found as a C library finds them.

The image may come from a peer: nothing in it is trusted. Source: elf(5), arch/x86/entry/vdso/ and
tools/testing/selftests/vDSO/parse_vdso.c of the kernel.
"""

from __future__ import annotations

import struct
from typing import Any

from livemig.errors import ProtocolError
from livemig.system.memory import PAGE_SIZE

MAX_IMAGE = 16 * PAGE_SIZE
"""Bytes of an image that is taken; those of Linux 6.1 to 6.18 have 2 or 3 pages."""

_HEADER = "=16sHHIQQQIHHHHHH"
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_DYN, _X86_64 = 3, 62
_PT_LOAD, _PT_DYNAMIC = 1, 2
_SEGMENT, _SYMBOL = "=IIQQQQQQ", "=IBBHQQ"
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_GNU_HASH = 4, 5, 6, 10, 0x6FFFFEF5
_FUNCTION = 2
_PREFIX = "__vdso_"


def entries(image: bytes) -> dict[str, int]:
    """Return the offsets of the functions by name: ``__vdso_time`` and its alias are ``time``.

    Raises ProtocolError where the bytes are not the image of a vDSO for x86_64.
    """
    if not 0 < len(image) <= MAX_IMAGE or len(image) % PAGE_SIZE:
        raise ProtocolError(f"the image of a vDSO has {len(image)} bytes")
    return _Image(image).functions()


class _Image:
    def __init__(self, image: bytes) -> None:
        self._image = image
        ident, kind, machine, _, _, segments, _, _, _, size, count, *_ = self._read(_HEADER, 0)
        if not ident.startswith(_IDENT) or (kind, machine) != (_DYN, _X86_64):
            raise ProtocolError("the image of a vDSO is no shared object for x86_64")
        if size != struct.calcsize(_SEGMENT):
            raise _broken("its program headers")
        self._bias, self._dynamic = 0, {}
        for index in range(count):
            kind, _, offset, address, _, length, *_ = self._read(_SEGMENT, segments + index * size)
            if kind == _PT_LOAD:
                self._bias = address - offset
            elif kind == _PT_DYNAMIC:
                self._dynamic = self._tags(offset, length)

    def _read(self, form: str, offset: int) -> tuple[Any, ...]:
        if not 0 <= offset <= len(self._image) - struct.calcsize(form):
            raise _broken("something outside of it")
        return struct.unpack_from(form, self._image, offset)

    def _tags(self, offset: int, length: int) -> dict[int, int]:
        tags: dict[int, int] = {}
        for place in range(offset, offset + min(length, len(self._image)), 16):
            tag, value = self._read("=QQ", place)
            if not tag:
                break
            tags.setdefault(tag, value)
        return tags

    def _place(self, tag: int) -> int:
        if tag not in self._dynamic:
            raise _broken(f"no dynamic tag {tag}")
        return self._dynamic[tag] - self._bias

    def functions(self) -> dict[str, int]:
        found: dict[str, int] = {}
        symbols = self._place(_DT_SYMTAB)
        for index in range(self._count()):
            name, info, _, section, value, _ = self._read(_SYMBOL, symbols + 24 * index)
            if info & 15 != _FUNCTION or not section:
                continue
            offset = value - self._bias
            self._read("=B", offset)
            if found.setdefault(key := self._name(name), offset) != offset:
                raise _broken(f"{key} in two places")
        return found

    def _name(self, offset: int) -> str:
        start, size = self._place(_DT_STRTAB), self._dynamic.get(_DT_STRSZ, 0)
        end = self._image.find(b"\0", max(start + offset, 0), max(start + size, 0))
        name = self._image[max(start + offset, 0) : max(end, 0)]
        if not name or not name.isascii():
            raise _broken("a function without a name")
        return name.decode().removeprefix(_PREFIX)

    def _count(self) -> int:
        """Return the number of symbols, which only the hash tables tell."""
        if _DT_HASH in self._dynamic:
            _, count = self._read("=II", self._place(_DT_HASH))
        else:
            count = self._hashed()
        if count > len(self._image) // struct.calcsize(_SYMBOL):
            raise _broken(f"{count} symbols")
        return int(count)

    def _hashed(self) -> int:
        table = self._place(_DT_GNU_HASH)
        buckets, first, bloom, _ = self._read("=IIII", table)
        chains = table + 16 + 8 * bloom + 4 * buckets
        heads = self._read(f"={min(buckets, MAX_IMAGE)}I", table + 16 + 8 * bloom)
        last = max(heads, default=0)
        if last < first:
            return int(first)
        while not self._read("=I", chains + 4 * (last - first))[0] & 1:
            last += 1
        return int(last) + 1


def _broken(what: str) -> ProtocolError:
    return ProtocolError(f"the image of a vDSO is broken: {what}")
