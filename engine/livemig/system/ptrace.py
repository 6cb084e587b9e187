"""ptrace(2) on one thread, as plain functions.

All of them must be called from the thread that attached. Structures are those of
``<sys/user.h>`` and ``<linux/ptrace.h>`` on x86_64. Every function raises ProcessLookupError
where the tracee is gone or not stopped, other OSErrors as the kernel gives them.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from functools import partial

from livemig.system.libc import failed, libc

_ptrace = libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

CONT = 7
GETREGS = 12
SETREGS = 13
SYSCALL = 24
GET_THREAD_AREA = 25  # asm/ptrace-abi.h
GETSIGINFO = 0x4202
GETREGSET = 0x4204
SETREGSET = 0x4205
SEIZE = 0x4206
INTERRUPT = 0x4207
PEEKSIGINFO = 0x4209
GETSIGMASK = 0x420A
SETSIGMASK = 0x420B
SECCOMP_GET_FILTER = 0x420C
SECCOMP_GET_METADATA = 0x420D
GET_RSEQ_CONFIGURATION = 0x420F
GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211
DETACH = 17

O_TRACESYSGOOD = 1
O_EXITKILL = 1 << 20
O_SUSPEND_SECCOMP = 1 << 21

EVENT_STOP = 128
SYSCALL_STOP = 0x85  # SIGTRAP | 0x80, with PTRACE_O_TRACESYSGOOD
NT_X86_XSTATE = 0x202
NT_386_IOPERM = 0x201
PEEKSIGINFO_SHARED = 1
SIGINFO_SIZE = 128
_THREAD_AREAS = range(12, 15)  # GDT_ENTRY_TLS_MIN to GDT_ENTRY_TLS_MAX, asm/segment.h
_IO_BITMAP_MAX = 8192  # IO_BITMAP_BYTES, asm/processor.h
_NOT_PRESENT = 1 << 5  # seg_not_present of struct user_desc
XSTATE_MAX = 65536  # AMX state needs 11 KiB; the kernel returns what there is


_NAMES = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip "
    "cs eflags rsp ss fs_base gs_base ds es fs gs"
).split()


_ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_WORD = (1 << 64) - 1
_NO_CALL = _WORD  # -1: the kernel restarts nothing


class Registers(ctypes.Structure):
    """``struct user_regs_struct``: 27 registers of 64 bits."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in _NAMES)

    def copy(self) -> Registers:
        """Return a copy that can be changed on its own."""
        return Registers.from_buffer_copy(self)

    def calling(self, address: int, number: int, *arguments: int) -> Registers:
        """Return the registers that make system call ``number`` at the instruction ``address``."""
        changed = self.copy()
        changed.rip, changed.rax = address, number
        changed.orig_rax = _NO_CALL
        for register, argument in zip(_ARGUMENTS, arguments, strict=False):
            setattr(changed, register, argument & _WORD)
        return changed

    def as_dict(self) -> dict[str, int]:
        """Return name and value of every register."""
        return {name: getattr(self, name) for name in _NAMES}


def signed(value: int) -> int:
    """Return a register's 64 bits as a signed number."""
    return value - (1 << 64) if value >> 63 else value


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _call(request: int, tid: int, address: object = None, data: object = None) -> int:
    ctypes.set_errno(0)
    result: int = _ptrace(request, tid, address, data)
    if result == -1 and ctypes.get_errno():
        raise failed(f"ptrace request {request:#x} on thread {tid}")
    return result


def seize(tid: int, options: int) -> None:
    """Attach to a thread without stopping it (PTRACE_SEIZE)."""
    _call(SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop; waitpid then tells PTRACE_EVENT_STOP."""
    _call(INTERRUPT, tid)


def cont(tid: int, signal: int = 0) -> None:
    """Let a stopped thread run, delivering ``signal`` where it is not 0."""
    _call(CONT, tid, 0, signal)


def cont_to_syscall(tid: int, signal: int = 0) -> None:
    """Let a stopped thread run until it enters or leaves a system call."""
    _call(SYSCALL, tid, 0, signal)


def detach(tid: int, signal: int = 0) -> None:
    """Let go of a stopped thread."""
    _call(DETACH, tid, 0, signal)


def get_registers(tid: int) -> Registers:
    """Return the general registers of a stopped thread."""
    registers = Registers()
    _call(GETREGS, tid, 0, ctypes.addressof(registers))
    return registers


def set_registers(tid: int, registers: Registers) -> None:
    """Set the general registers of a stopped thread, all at once."""
    _call(SETREGS, tid, 0, ctypes.addressof(registers))


def get_xstate(tid: int) -> bytes:
    """Return the extended state in XSAVE's standard format (Intel SDM vol. 1, 13.4)."""
    buffer = ctypes.create_string_buffer(XSTATE_MAX)
    vector = _IoVec(ctypes.addressof(buffer), len(buffer))
    _call(GETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))
    return buffer.raw[: vector.length]


def set_xstate(tid: int, state: bytes) -> None:
    """Set the extended state of a stopped thread."""
    buffer = ctypes.create_string_buffer(state, len(state))
    vector = _IoVec(ctypes.addressof(buffer), len(state))
    _call(SETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))


def has_io_ports(tid: int) -> bool:
    """Tell whether a stopped thread was given I/O ports (ioperm(2)); iopl(2) shows nowhere."""
    buffer = ctypes.create_string_buffer(_IO_BITMAP_MAX)
    vector = _IoVec(ctypes.addressof(buffer), len(buffer))
    try:
        _call(GETREGSET, tid, NT_386_IOPERM, ctypes.addressof(vector))
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EIO, errno.ENODEV, errno.EINVAL):
            return False  # it has none, or the kernel knows no such thing
        raise
    return bool(vector.length)


def get_sigmask(tid: int) -> int:
    """Return the blocked signals of a stopped thread, bit n-1 for signal n."""
    mask = ctypes.c_uint64()
    _call(GETSIGMASK, tid, 8, ctypes.addressof(mask))
    return mask.value


def set_sigmask(tid: int, mask: int) -> None:
    """Set the blocked signals of a stopped thread."""
    value = ctypes.c_uint64(mask)
    _call(SETSIGMASK, tid, 8, ctypes.addressof(value))


def get_siginfo(tid: int) -> bytes:
    """Return the siginfo of the signal that the thread stopped for (128 bytes)."""
    buffer = ctypes.create_string_buffer(SIGINFO_SIZE)
    _call(GETSIGINFO, tid, 0, ctypes.addressof(buffer))
    return buffer.raw


def pending_signals(tid: int, *, shared: bool) -> list[bytes]:
    """Return the siginfo of every queued signal, of the thread or of the whole process."""
    found: list[bytes] = []
    batch = 32
    buffer = ctypes.create_string_buffer(SIGINFO_SIZE * batch)
    while True:
        request = ctypes.create_string_buffer(
            struct.pack("=QIi", len(found), PEEKSIGINFO_SHARED if shared else 0, batch)
        )
        count = _call(PEEKSIGINFO, tid, ctypes.addressof(request), ctypes.addressof(buffer))
        found += [buffer.raw[i * SIGINFO_SIZE : (i + 1) * SIGINFO_SIZE] for i in range(count)]
        if count < batch:
            return found


def get_rseq(tid: int) -> tuple[int, int, int, int]:
    """Return address, size, signature and flags of the thread's restartable sequence area."""
    buffer = ctypes.create_string_buffer(24)
    _call(GET_RSEQ_CONFIGURATION, tid, len(buffer), ctypes.addressof(buffer))
    address, size, signature, flags, _ = struct.unpack("=QIIII", buffer.raw)
    return address, size, signature, flags


def dispatches_calls(tid: int) -> bool:
    """Tell whether a stopped thread has its system calls sent to a handler of its own.

    That is Syscall User Dispatch (Documentation/admin-guide/syscall-user-dispatch.rst). False, too,
    where the kernel does not tell, which it does from Linux 6.4 on.
    """
    buffer = ctypes.create_string_buffer(32)  # struct ptrace_sud_config, its mode first
    try:
        _call(GET_SYSCALL_USER_DISPATCH_CONFIG, tid, len(buffer), ctypes.addressof(buffer))
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise
    return buffer.raw[:8] != bytes(8)  # PR_SYS_DISPATCH_OFF is 0


def has_thread_areas(tid: int) -> bool:
    """Tell whether a stopped thread has set a segment of thread-local storage.

    False where the kernel has no 32-bit programs, whose calls alone set one.
    """
    return any(map(partial(_is_thread_area, tid), _THREAD_AREAS))


def _is_thread_area(tid: int, entry: int) -> bool:
    found = ctypes.create_string_buffer(16)  # struct user_desc of asm/ldt.h, its flags last
    try:
        _call(GET_THREAD_AREA, tid, entry, ctypes.addressof(found))
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise
    return not int.from_bytes(found.raw[12:], "little") & _NOT_PRESENT


def seccomp_filter(tid: int, index: int) -> bytes | None:
    """Return the BPF program of filter ``index`` (8 bytes an instruction), None past the end.

    Index 0 is the filter that was installed first (kernel/seccomp.c, get_nth_filter).
    """
    ctypes.set_errno(0)
    count: int = _ptrace(SECCOMP_GET_FILTER, tid, index, None)
    if count == -1:
        if ctypes.get_errno() in (2, 22):  # ENOENT: no such filter; EINVAL: none at all
            return None
        raise failed(f"reading seccomp filter {index} of thread {tid}")
    buffer = ctypes.create_string_buffer(count * 8)
    _call(SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    return buffer.raw


def seccomp_flags(tid: int, index: int) -> int:
    """Return the flags that filter ``index`` was installed with, as far as the kernel tells them.

    That is SECCOMP_FILTER_FLAG_LOG (kernel/seccomp.c, seccomp_get_metadata).
    """
    metadata = ctypes.create_string_buffer(struct.pack("=QQ", index, 0), 16)
    _call(SECCOMP_GET_METADATA, tid, len(metadata), ctypes.addressof(metadata))
    flags: int = struct.unpack("=QQ", metadata.raw)[1]
    return flags
