"""Images of vDSOs, and copies of them that lead on: hostile ones, and one that is really called."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livemig import vdso
from livemig.errors import MachineMismatch, ProtocolError
from livemig.system import procfs
from livemig.system.memory import PAGE_SIZE
from tests import vdsos

OWN = vdso.own()
THERE = vdso.entries(OWN.code)
KNOWN = ("clock_gettime", "gettimeofday", "time", "getcpu", "clock_getres")
ALL = (*KNOWN, "getrandom", "sgx_enter_enclave")

# As arch/x86/entry/vdso/vdso-layout.lds.S has it: one segment, addresses as in the file.
SCRIPT = """
SECTIONS {{
    . = {bias} + SIZEOF_HEADERS;
    .hash : {{ *(.hash) }} :text
    .gnu.hash : {{ *(.gnu.hash) }}
    .dynsym : {{ *(.dynsym) }}
    .dynstr : {{ *(.dynstr) }}
    .dynamic : {{ *(.dynamic) }} :text :dynamic
    .text : {{ *(.text*) }} :text
    /DISCARD/ : {{ *(.note*) *(.eh_frame*) *(.comment) *(.data) *(.bss) }}
}}
PHDRS {{ text PT_LOAD FLAGS(5) FILEHDR PHDRS; dynamic PT_DYNAMIC FLAGS(4); }}
"""
# Each function dies where it is run itself.
FUNCTION = """
.globl __vdso_{name}; .type __vdso_{name}, @function; .weak {name}; .set {name}, __vdso_{name}
.type {name}, @function
.p2align 4
__vdso_{name}: .fill {size}, 1, 0xcc
.size __vdso_{name}, {size}
"""


def build(
    place: Path, sizes: Mapping[str, int], *, hashes: str = "both", bias: int = 0, extra: str = ""
) -> bytes:
    """Make the image of a vDSO with the compiler; hashes are ``sysv``, ``gnu`` or ``both``."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    assert compiler is not None
    code = "".join(FUNCTION.format(name=name, size=size) for name, size in sizes.items())
    (place / "code.S").write_text(f".text\n{code}{extra}\n")
    (place / "script").write_text(SCRIPT.format(bias=bias))
    linked = [f"-Wl,--hash-style={hashes}", f"-Wl,-T,{place}/script", "-Wl,--build-id=none"]
    command = [compiler, "-shared", "-nostdlib", "-s", *linked, "-Wl,-soname,linux-vdso.so.1"]
    words = [*command, "-o", str(place / "image"), str(place / "code.S")]
    subprocess.run(words, check=True, timeout=60)
    image = (place / "image").read_bytes()
    return image.ljust(-(-len(image) // PAGE_SIZE) * PAGE_SIZE, b"\0")


# What this kernel has


def test_the_own_one_is_found() -> None:
    assert {*KNOWN} <= {*THERE}
    areas = [each for each in procfs.read_areas(os.getpid()) if each.name.startswith("[v")]
    assert areas[-1].end - areas[0].start == OWN.before + len(OWN.code)


def test_another_kernels_has_the_same_functions() -> None:
    code = vdsos.other(OWN.code)
    assert code != OWN.code
    assert vdso.entries(code) == THERE


@pytest.mark.parametrize("hashes", ["sysv", "gnu", "both"])
@pytest.mark.parametrize("bias", [0, 0x7FFF0000])
def test_functions_are_found_by_either_table(tmp_path: Path, hashes: str, bias: int) -> None:
    found = vdso.entries(build(tmp_path, dict.fromkeys(ALL, 64), hashes=hashes, bias=bias))
    assert set(found) == set(ALL)
    assert sorted(found.values()) == [min(found.values()) + 64 * each for each in range(len(ALL))]


# Copies that are called


class Copy:
    """A copy of another kernel's vDSO in this process."""

    def __init__(self, image: bytes, there: Mapping[str, int]) -> None:
        self.code = vdso.lead(image, there)
        self._offsets = vdso.entries(self.code)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self._memory = mmap.mmap(-1, len(image), flags, prot)
        self._memory[:] = self.code
        self._view = ctypes.c_char.from_buffer(self._memory)
        self.start = ctypes.addressof(self._view)

    def call(self, name: str, *arguments: Any) -> int:
        kinds = [ctypes.c_uint64] * len(arguments)
        function = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(self.start + self._offsets[name])
        return int(function(*arguments))

    def close(self) -> None:
        del self._view
        self._memory.close()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build(tmp_path_factory.mktemp("image"), dict.fromkeys(ALL, 48))


@pytest.fixture(params=["led", "calls"])
def copy(request: pytest.FixtureRequest, foreign: bytes) -> Iterator[Copy]:
    """Return a copy that leads into this kernel's vDSO, or one that has nothing to lead to."""
    (start,) = (each.start for each in procfs.read_areas(os.getpid()) if each.name == "[vdso]")
    there = {name: start + offset for name, offset in THERE.items()}
    found = Copy(foreign, there if request.param == "led" else {})
    yield found
    found.close()


def test_clocks_are_read(copy: Copy) -> None:
    at = (ctypes.c_int64 * 2)()
    place = ctypes.addressof(at)
    for clock in (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, 6):
        before = time.clock_gettime_ns(clock)
        assert copy.call("clock_gettime", clock, place) == 0
        assert before <= at[0] * 10**9 + at[1] <= time.clock_gettime_ns(clock)
    assert ctypes.c_int32(copy.call("clock_gettime", 1000, place)).value == -errno.EINVAL
    assert copy.call("clock_getres", time.CLOCK_MONOTONIC, place) == 0
    assert (at[0], at[1]) == (0, round(time.clock_getres(time.CLOCK_MONOTONIC) * 10**9))


def test_the_time_of_day_is_read(copy: Copy) -> None:
    at = (ctypes.c_int64 * 2)()
    place = ctypes.addressof(at)
    before = time.time_ns() // 1000
    assert copy.call("gettimeofday", place, 0) == 0
    assert before <= at[0] * 10**6 + at[1] <= time.time_ns() // 1000
    assert copy.call("time", place) == at[0]
    assert abs(at[0] - time.time()) < 2


def test_the_cpu_is_told(copy: Copy) -> None:
    numbers = (ctypes.c_uint32 * 2)(1 << 31, 1 << 31)
    place = ctypes.addressof(numbers)
    assert copy.call("getcpu", place, place + 4, 0) == 0
    assert numbers[0] < 4096
    assert numbers[1] < 1024


def test_random_bytes_come_without_a_state_of_the_right_size(copy: Copy) -> None:
    buffer = ctypes.create_string_buffer(64)
    place = ctypes.addressof(buffer)
    with mmap.mmap(-1, mmap.PAGESIZE) as page:  # a state that crosses pages is refused
        state = ctypes.addressof(ctypes.c_char.from_buffer(page))
        assert copy.call("getrandom", place, 64, 0, state, 1) == 64
        assert buffer.raw != bytes(64)
        assert copy.call("getrandom", place, 64, 1 << 20, state, 1) == -errno.EINVAL


def test_a_copy_without_random_states_says_so(foreign: bytes) -> None:
    """Who asks what state is needed must hear that there is none (lib/vdso/getrandom.c)."""
    copy = Copy(foreign, {})
    params = (ctypes.c_uint32 * 16)()
    place = ctypes.addressof(params)
    everything = (1 << 64) - 1
    assert copy.call("getrandom", 0, 0, 0, place, everything) == -errno.ENOSYS
    assert not any(params)
    assert copy.call("getrandom", place, 4, 0, place, everything) == 4
    assert ctypes.c_int32(copy.call("sgx_enter_enclave", *[0] * 6)).value == -errno.ENOSYS
    copy.close()


# Copies of copies


def test_a_copy_is_led_on_as_the_image_was(foreign: bytes) -> None:
    first, second = dict.fromkeys(ALL, 1 << 40), dict.fromkeys(ALL[1:], 1 << 41)
    once = vdso.lead(foreign, first)
    assert vdso.lead(once, first) == once
    again = vdso.lead(vdso.lead(once, second), first)
    assert vdso.entries(again) == vdso.entries(foreign)
    assert again == once, "what was a call by number is a jump again"


def test_a_copy_is_known_by_its_head(foreign: bytes) -> None:
    head = vdso.lead(foreign, {})[: vdso.HEAD]
    assert vdso.copy_size(head) == len(foreign)
    assert not vdso.copy_size(foreign[: vdso.HEAD])
    assert not vdso.copy_size(OWN.code[: vdso.HEAD])
    for other in (head[:-1], b"", bytes(16), head[:-2] + b"\0\0", head[:-2] + b"\xff\xff"):
        assert not vdso.copy_size(other)


# What cannot be led


def test_a_function_that_would_lead_nowhere_is_named(tmp_path: Path) -> None:
    image = build(tmp_path, {"time": 32, "fast_fork": 32, "abort": 32})
    with pytest.raises(MachineMismatch, match=f"{os.uname().nodename}.* lacks abort, fast_fork,"):
        vdso.lead(image, THERE)
    assert vdso.lead(image, {"abort": 1, "fast_fork": 2})


def test_a_function_that_is_too_short_is_refused(tmp_path: Path) -> None:
    image = build(
        tmp_path,
        {"abc": 64},
        extra=FUNCTION.replace(".p2align 4", "").format(name="time", size=13)
        + FUNCTION.replace(".p2align 4", "").format(name="xyz", size=64),
    )
    with pytest.raises(ProtocolError, match="no room for time"):
        vdso.lead(image, {"abc": 1, "time": 2, "xyz": 3})


def test_two_names_in_one_place_must_lead_to_one(tmp_path: Path) -> None:
    extra = ".globl twin; .set twin, __vdso_time; .type twin, @function"
    image = build(tmp_path, {"time": 32}, extra=extra)
    assert vdso.lead(image, {"time": 1, "twin": 1})
    with pytest.raises(ProtocolError, match="no room for t"):
        vdso.lead(image, {"time": 1, "twin": 2})


HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
BROKEN = {
    "empty": b"",
    "short": OWN.code[:-1],
    "long": OWN.code.ljust(vdso.MAX_IMAGE + PAGE_SIZE, b"\0"),
    "zeros": bytes(2 * PAGE_SIZE),
    "no-dynamic-tags": OWN.code[:64].ljust(2 * PAGE_SIZE, b"\0"),
    "big-endian": OWN.code[:5] + b"\x02" + OWN.code[6:],
    "32-bit": OWN.code[:4] + b"\x01" + OWN.code[5:],
    "other-machine": OWN.code[:18] + b"\xb7" + OWN.code[19:],
    "segments-outside": OWN.code[:32] + b"\xff" * 8 + OWN.code[40:],
    "segments-of-no-size": OWN.code[:54] + b"\0\0" + OWN.code[56:],
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="the image of a vDSO"):
        vdso.lead(BROKEN[name], THERE)


def test_tables_are_not_written_over(tmp_path: Path) -> None:
    """A function may be said to be anywhere."""
    image = build(tmp_path, {"time": 64})
    value = struct.pack("<Q", vdso.entries(image)["time"])
    hostile = image.replace(value, struct.pack("<Q", 24))  # where the ELF header tells of others
    assert vdso.entries(hostile) == {"time": 24}
    with pytest.raises(ProtocolError, match="the image of a vDSO"):
        vdso.lead(hostile, {"time": 1})


WORDS = st.sampled_from((0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1))


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, 0x780), st.integers(0, 255)), max_size=6),
    st.lists(st.tuples(st.integers(0, 0x780 // 8), WORDS), max_size=3),
)
@example([], [])
def test_a_broken_image_is_an_error_with_a_code(
    changes: list[tuple[int, int]], words: list[tuple[int, int]]
) -> None:
    image = bytearray(OWN.code)
    for place, value in changes:
        image[place] = value
    for place, value in words:
        image[8 * place : 8 * place + 8] = struct.pack("<Q", value)
    try:
        copy = vdso.lead(bytes(image), THERE)
    except (ProtocolError, MachineMismatch):
        return
    assert len(copy) == len(image)
    assert vdso.copy_size(copy) == len(image)


@settings(max_examples=200)
@given(st.binary(min_size=PAGE_SIZE - 64, max_size=PAGE_SIZE - 64))
def test_garbage_is_an_error_with_a_code(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        vdso.entries(OWN.code[:64] + data)
