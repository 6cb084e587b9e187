"""The held process: it owns nothing but the stub, until it becomes the one that arrives."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from livemig.errors import InternalError, ProcessGone, ProtocolError
from livemig.extract.files import MAX_PASSED, OWN_NUMBERS
from livemig.layout import LOWEST, free_hole
from livemig.model import Mapping
from livemig.stub.runner import RUN_LIMIT, SIZE, Stub
from livemig.stub.table import Table
from livemig.system import handles, procfs, ptrace
from livemig.system.memory import PAGE_SIZE, USER_END, Memory
from livemig.system.numbers import (
    NR_CLOSE,
    NR_FCNTL,
    NR_MMAP,
    NR_MUNMAP,
    NR_RECVMSG,
    NR_SOCKETPAIR,
    NR_UNSHARE,
)
from livemig.system.procfs import PROT_EXEC, PROT_READ, PROT_WRITE
from livemig.system.ptrace import signed
from livemig.tracing import Tracee

F_DUPFD_CLOEXEC = 1030
CLONE_NEWTIME = 0x80
_MAP_HERE = 0x100022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
_SEQPACKET_CLOEXEC = 5 | 0o2000000
_MSG_CMSG_CLOEXEC = 0x40000000
_STREAMS = 3


class Held:
    """The first process of a held container, traced and stopped whenever no table runs.

    It dies with its tracer until ``release``. ``streams`` are the descriptors of the container's
    own standard streams, kept at high numbers, of which there are less than ``limit``.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.tracee = Tracee(pid, options=ptrace.O_EXITKILL)
        self.memory = Memory(pid)
        self.channel: socket.socket | None = None
        self.streams: list[int] = []
        self.limit = 0
        self._attached = False
        self._channel_number = -1

    def take(self, avoid: Sequence[Mapping] = ()) -> None:
        """Stop the process, put the stub in a hole that ``avoid`` leaves, drop all other memory."""
        self.tracee.attach()
        self._attached = True
        self.tracee.stop()
        self.stub = self._place(self._syscall_address(), avoid)
        table = self.stub.table()
        base = self.stub.base
        table.call("munmap below the stub", NR_MUNMAP, 0, base)
        table.call("munmap above the stub", NR_MUNMAP, base + SIZE, USER_END - base - SIZE)
        table.call("unshare the time namespace", NR_UNSHARE, CLONE_NEWTIME)
        self.stub.run(table)
        self._open_channel()

    def _syscall_address(self) -> int:
        for area in procfs.read_areas(self.pid):
            if area.prot & PROT_EXEC and not area.name.startswith("[v"):
                place = self.memory.read(area.start, area.end - area.start).find(b"\x0f\x05")
                if place >= 0:
                    return area.start + place
        raise InternalError(f"process {self.pid} is not livemig-hold: no system call in its code")

    def _place(self, syscall_address: int, avoid: Sequence[Mapping]) -> Stub:
        taken = [(mapping.start, mapping.end) for mapping in avoid]
        taken += [(area.start, area.end) for area in procfs.read_areas(self.pid)]
        base = free_hole(taken, SIZE, LOWEST)
        if base > USER_END - SIZE:
            raise ProtocolError("the layout leaves no room for the stub")
        for start, size, prot in (
            (base, PAGE_SIZE, PROT_READ | PROT_EXEC),
            (base + PAGE_SIZE, SIZE - PAGE_SIZE, PROT_READ | PROT_WRITE),
        ):
            result = self.call_at(syscall_address, NR_MMAP, start, size, prot, _MAP_HERE, -1, 0)
            if result != start:
                raise InternalError(f"no room for the stub at {start:#x} in process {self.pid}")
        stub = Stub(self.tracee, self.memory, base)
        stub.install()
        return stub

    def call_at(self, address: int, number: int, *arguments: int) -> int:
        """Make one system call at an instruction; the thread is in its exit stop afterwards."""
        registers = ptrace.get_registers(self.pid)
        ptrace.set_registers(self.pid, registers.calling(address, number, *arguments))
        for _ in range(2):
            self._to_syscall_stop()
        return signed(ptrace.get_registers(self.pid).rax)

    def interrupted_call(self, number: int, *arguments: int) -> int:
        """Make a call that would wait, and interrupt it at once; returns what it returned.

        The kernel knows then how to go on with it, until the next call that can be interrupted so.
        """
        address = self.stub.base + self._own_syscall()
        registers = ptrace.get_registers(self.pid)
        ptrace.set_registers(self.pid, registers.calling(address, number, *arguments))
        self._to_syscall_stop()
        ptrace.interrupt(self.pid)
        self._to_syscall_stop()
        result = signed(ptrace.get_registers(self.pid).rax)
        self.tracee.enter_signal_stop()
        return result

    def _to_syscall_stop(self) -> None:
        ptrace.cont_to_syscall(self.pid)
        stop = self.tracee.wait()
        if stop.signal != ptrace.SYSCALL_STOP:
            raise InternalError(f"held process {self.pid} stopped for signal {stop.signal}")

    def avoid(self, mappings: Sequence[Mapping]) -> None:
        """Move the stub out of the way where ``mappings`` want its place."""
        base = self.stub.base
        if all(mapping.end <= base or base + SIZE <= mapping.start for mapping in mappings):
            return
        old = self.stub
        self.stub = self._place(old.base + self._own_syscall(), mappings)
        table = self.stub.table()
        table.call("munmap the old stub", NR_MUNMAP, old.base, SIZE)
        self.stub.run(table)

    def _own_syscall(self) -> int:
        return self.memory.read(self.stub.base, PAGE_SIZE).index(b"\x0f\x05")

    def _open_channel(self) -> None:
        self.limit = self._raise_limit()
        base = min(self.limit, OWN_NUMBERS.stop) - len(OWN_NUMBERS)
        table = self.stub.table()
        pair = table.room(8)
        table.call("socketpair", NR_SOCKETPAIR, socket.AF_UNIX, _SEQPACKET_CLOEXEC, 0, pair)
        self.stub.run(table)
        ours, theirs = struct.unpack("=ii", self.memory.read(pair, 8))
        self.channel = socket.socket(fileno=handles.fetch_descriptor(self.pidfd, ours))
        self.channel.settimeout(10)
        table = self.stub.table()
        kept = [
            table.call(f"move descriptor {number}", NR_FCNTL, number, F_DUPFD_CLOEXEC, base)
            for number in (*range(_STREAMS), theirs)
        ]
        for number in (*range(_STREAMS), ours, theirs):
            table.call(f"close {number}", NR_CLOSE, number)
        results = self.stub.run(table)
        *self.streams, self._channel_number = (results[index] for index in kept)

    def _raise_limit(self) -> int:
        """Have room for descriptors above those that arrive; return how many there may be.

        The arriving process has its own limit in the end, or `rebuild` fails.
        """
        soft, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        wanted = OWN_NUMBERS.stop + 4 * MAX_PASSED
        for limit in (max(hard, wanted), hard):
            with suppress(PermissionError, ValueError):  # a hard limit is not for all to raise
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (limit, limit))
                return limit
        return soft

    def pass_descriptors(self, table: Table, descriptors: Sequence[int]) -> list[int]:
        """Send descriptors of ours; ``table`` receives them. Returns the numbers they will have.

        They take the lowest free numbers in order, so no other call of the same table may have
        opened or closed a low number before. At most MAX_PASSED.
        """
        if self.channel is None:
            raise InternalError("the held process has no channel")
        if not descriptors:
            return []
        socket.send_fds(self.channel, [b"f"], list(descriptors))
        control = table.room(16 + 4 * len(descriptors) + 8)
        vector = table.place(struct.pack("=QQ", table.room(8), 8))
        message = table.place(
            struct.pack("=QQQQQQQ", 0, 0, vector, 1, control, 16 + 4 * len(descriptors), 0)
        )
        table.call("recvmsg", NR_RECVMSG, self._channel_number, message, _MSG_CMSG_CLOEXEC)
        taken = set(procfs.descriptors(self.pid))
        numbers: list[int] = []
        candidate = 0
        while len(numbers) < len(descriptors):
            if candidate not in taken:
                numbers.append(candidate)
            candidate += 1
        return numbers

    def drop_channel(self, table: Table) -> None:
        """Add the calls that close the channel and the kept standard streams to ``table``."""
        for number in (*self.streams, self._channel_number):
            table.call(f"close {number}", NR_CLOSE, number)

    def own_numbers(self) -> tuple[int, ...]:
        """Return the descriptor numbers that the held process uses for itself."""
        return (*self.streams, self._channel_number)

    def leave(self) -> None:
        """Unmap the stub as its own last act; the thread is then stopped and has no code left."""
        result = self.call_at(self.stub.base + self._own_syscall(), NR_MUNMAP, self.stub.base, SIZE)
        if result:
            raise InternalError(f"the stub in process {self.pid} could not be unmapped: {result}")

    def release(self) -> None:
        """End tracing; the process must be frozen by its cgroup, or it runs."""
        self._attached = False
        self.tracee.detach()
        self.close()

    def close(self) -> None:
        """Close what this side holds; a process that was not released is ended, and reaped.

        Its parent, Docker's shim, learns of the end of a traced process only after its tracer.
        """
        if self._attached:
            self._attached = False
            self._end()
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.pidfd >= 0:
            self.memory.close()
            os.close(self.pidfd)
            self.pidfd = -1

    def _end(self) -> None:
        with suppress(ProcessLookupError, ProcessGone):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            while True:
                self.tracee.wait(RUN_LIMIT)  # all of its memory is freed first
