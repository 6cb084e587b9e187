"""The signal frame has the kernel's layout; tests/root tries it on a real kernel."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livemig import sigframe
from livemig.system.ptrace import Registers

# offsetof() in struct rt_sigframe, with <sys/ucontext.h> and <asm/sigcontext.h> of x86_64
UC_FLAGS, SS_FLAGS, GREGS, CS, SS, FPSTATE, SIGMASK = 8, 32, 48, 192, 198, 232, 304
GREGS_ORDER = "r8 r9 r10 r11 r12 r13 r14 r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags".split()
XSTATE = 832
ADDRESSES = st.integers(1, 1 << 40).map(lambda number: number * 64)


def registers(**values: int) -> Registers:
    found = {name: index + 1 for index, name in enumerate(GREGS_ORDER)}
    found.update(cs=0x33, ss=0x2B, orig_rax=(1 << 64) - 1)
    return Registers(**{**found, **values})


def xstate(size: int = XSTATE) -> bytes:
    state = bytearray(index % 251 for index in range(size))
    struct.pack_into("=Q", state, 464, 0x2E7)  # the kernel keeps XCR0 there (user_xstateregs_get)
    return bytes(state)


def word(frame: bytes, offset: int) -> int:
    return int.from_bytes(frame[offset : offset + 8], "little")


@given(ADDRESSES, st.integers(0, (1 << 64) - 1))
def test_registers_and_mask_lie_where_the_kernel_reads_them(address: int, mask: int) -> None:
    frame = sigframe.build(address, registers(), xstate(), mask, 0x1234)
    assert word(frame, 0) == 0x1234
    assert [word(frame, GREGS + 8 * index) for index in range(18)] == list(range(1, 19))
    assert struct.unpack_from("=H", frame, CS)[0] == 0x33
    assert struct.unpack_from("=H", frame, SS)[0] == 0x2B
    assert word(frame, SIGMASK) == mask
    assert word(frame, UC_FLAGS) == 7
    assert len(frame) <= sigframe.size(xstate())


def test_the_alternate_stack_is_left_alone() -> None:
    frame = sigframe.build(1 << 20, registers(), xstate(), 0)
    mode = struct.unpack_from("=i", frame, SS_FLAGS)[0]
    assert mode & ~0x80000000 not in (0, 1, 2), "do_sigaltstack would accept this mode"


@given(ADDRESSES, st.sampled_from((576, 832, 2696, 11008)))
def test_the_extended_state_is_framed_by_its_magic_words(address: int, size: int) -> None:
    state = xstate(size)
    frame = sigframe.build(address, registers(), state, 0)
    place = word(frame, FPSTATE) - address
    assert (address + place) % 64 == 0
    magic, extended, features, length = struct.unpack_from("=IIQI", frame, place + 464)
    assert (magic, extended, features, length) == (0x46505853, size + 4, 0x2E7, size)
    assert frame[place : place + 464] == state[:464]
    assert frame[place + 512 : place + size] == state[512:]
    assert frame[place + size :] == struct.pack("=I", 0x46505845)


@pytest.mark.parametrize("code", [512, 513, 514, 516])
def test_an_interrupted_call_is_entered_again(code: int) -> None:
    interrupted = registers(orig_rax=35, rax=(1 << 64) - code, rip=0x40_1002)
    frame = sigframe.build(1 << 20, interrupted, xstate(), 0)
    assert word(frame, GREGS + 8 * GREGS_ORDER.index("rax")) == 35
    assert word(frame, GREGS + 8 * GREGS_ORDER.index("rip")) == 0x40_1000


@pytest.mark.parametrize("rax", [0, 7, (1 << 64) - 4])
def test_a_call_that_has_returned_is_not_entered_again(rax: int) -> None:
    returned = registers(orig_rax=0, rax=rax, rip=0x40_1002)
    frame = sigframe.build(1 << 20, returned, xstate(), 0)
    assert word(frame, GREGS + 8 * GREGS_ORDER.index("rax")) == rax
    assert word(frame, GREGS + 8 * GREGS_ORDER.index("rip")) == 0x40_1002


STACK = 0x7FFE_0000_1000
RUNNING = registers(rip=0x1234, rsp=0x5678, eflags=0x246)


def test_frames_on_a_stack_are_found() -> None:
    places = (64, 64 * 100)
    stack = bytearray(64 * 200)
    for place in places:
        frame = sigframe.build(STACK + place, RUNNING, xstate(), 0)
        stack[place : place + len(frame)] = frame
    assert sigframe.saved(bytes(stack), STACK) == [(0x1234, 0x5678)] * 2


@pytest.mark.parametrize("place", [UC_FLAGS, CS - 8, CS, FPSTATE, 448 + 464])
def test_what_was_written_over_is_no_frame(place: int) -> None:
    """Its flags, those of the CPU, the segments, the place of the extended state, and that."""
    stack = bytearray(sigframe.build(STACK, RUNNING, xstate(), 0))
    stack += bytes(-len(stack) % 8)
    assert sigframe.saved(bytes(stack), STACK)
    stack[place : place + 8] = b"\xf8" * 8
    assert not sigframe.saved(bytes(stack), STACK)


@pytest.mark.parametrize("length", [0, 8, 192, 200, 440, 904])
def test_half_a_frame_is_none(length: int) -> None:
    stack = sigframe.build(STACK, RUNNING, xstate(), 0)
    assert not sigframe.saved(stack[:length], STACK)


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_tiles_that_are_not_used_have_no_room_in_a_frame(used: bool) -> None:
    """The kernel's own has none then, and it refuses a larger state."""
    tiles, size = 1 << 18, 11008
    state = bytearray(xstate(size))
    struct.pack_into("=Q", state, 464, 0x602E7)
    struct.pack_into("=Q", state, 512, 0xE7 | (tiles if used else 0))
    frame = sigframe.build(1 << 20, registers(), bytes(state), 0)
    place = word(frame, FPSTATE) - (1 << 20)
    *_, features, length = struct.unpack_from("=IIQI", frame, place + 464)
    assert (features, length) == ((0x602E7, size) if used else (0x202E7, 2816))
    assert frame[place + length :] == struct.pack("=I", 0x46505845)
