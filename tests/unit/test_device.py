"""The device's numbers in Python are those of its header in C, and what it refuses is named."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from livemig.system import device
from tests.hosts.config import REPO

HEADER = REPO / "kmod" / "include" / "uapi" / "livemig.h"
PROGRAM = """
#include <stdio.h>
#include <stddef.h>
#include "livemig.h"
#define TELL(name) printf("%s=%llu\\n", #name, (unsigned long long)(name))
int main(void)
{
	const struct livemig_op op = { 5, 1, 2, 3, 4, 6, 7, 8, 9, 10 };
	const unsigned char *bytes = (const void *)&op;

	TELL(LIVEMIG_VERSION); TELL(LIVEMIG_MAX_OPS); TELL(LIVEMIG_INFO); TELL(LIVEMIG_RUN);
	TELL(LIVEMIG_MOVE); TELL(LIVEMIG_MOVE_VDSO); TELL(LIVEMIG_MAP); TELL(LIVEMIG_MAP_FILE);
	TELL(LIVEMIG_UNMAP); TELL(LIVEMIG_REPLACE); TELL(LIVEMIG_GROWSDOWN);
	TELL(LIVEMIG_NORESERVE); TELL(LIVEMIG_SHARED); TELL(sizeof(struct livemig_batch));
	TELL(sizeof(struct livemig_info)); TELL(offsetof(struct livemig_batch, ops));
	TELL(offsetof(struct livemig_batch, done));
	for (size_t i = 0; i < sizeof(op); i++)
		printf("%02x", bytes[i]);
	return 0;
}
"""


def told(tmp_path: Path) -> tuple[dict[str, int], str]:
    source, program = tmp_path / "tell.c", tmp_path / "tell"
    source.write_text(PROGRAM)
    subprocess.run(["cc", f"-I{HEADER.parent}", "-o", program, source], check=True, timeout=60)
    *lines, image = subprocess.run(
        [program], check=True, capture_output=True, text=True, timeout=10
    ).stdout.splitlines()
    return {name: int(value) for name, value in (line.split("=") for line in lines)}, image


def test_the_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    found, image = told(tmp_path)
    expected = {f"LIVEMIG_{name}": int(member) for name, member in device.Do.__members__.items()}
    expected |= {f"LIVEMIG_{name}": int(flag) for name, flag in device.Flag.__members__.items()}
    expected |= {
        "LIVEMIG_VERSION": device.VERSION,
        "LIVEMIG_MAX_OPS": device.MAX_OPS,
        "LIVEMIG_INFO": device.IOC_INFO,
        "LIVEMIG_RUN": device.IOC_RUN,
        "sizeof(struct livemig_batch)": 24,
        "sizeof(struct livemig_info)": 16,
        "offsetof(struct livemig_batch, ops)": 8,
        "offsetof(struct livemig_batch, done)": 16,
    }
    assert found == expected
    operation = device.Operation(
        device.Do.UNMAP,
        addr=2,
        length=3,
        new_addr=4,
        new_length=6,
        offset=7,
        prot=8,
        fd=9,
        flags=device.Flag.REPLACE,
    )
    assert operation.packed()[:-8].hex() == image[:-16]
    assert len(operation.packed()) * 2 == len(image)


def test_the_step_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device does the first, and refuses the second."""
    first = device.Operation(device.Do.UNMAP, addr=0x1000, length=0x1000)
    moved = device.Operation(device.Do.MOVE, 0, 0x1000, 0x2000, 0x8000, 0x3000)
    mapped = device.Operation(device.Do.MAP_FILE, 0, 0x1000, 0x1000, path="/bin/a")
    monkeypatch.setattr(device, "PATH", os.devnull)
    monkeypatch.setattr(device.Device, "_info", lambda _: (device.VERSION, device.MAX_OPS, 0))
    monkeypatch.setattr("fcntl.ioctl", refuse_second)
    with closing(device.Device()) as found:
        for second, words in (
            (moved, "move 0x1000-0x3000 to 0x8000-0xb000"),
            (mapped, "map_file 0x1000-0x2000 /bin/a"),
        ):
            with pytest.raises(FileExistsError, match=f"{words}: File exists"):
                found.run(0, [first, second])


def refuse_second(_: int, __: int, batch: bytearray) -> None:
    """Answer as the device does: one is done, and the result of the next says why not."""
    pidfd, count, place, _, reserved = device._BATCH.unpack(batch)
    size = device._OP.size
    ctypes.memmove(place + 2 * size - 8, (-errno.EEXIST).to_bytes(8, "little", signed=True), 8)
    batch[:] = device._BATCH.pack(pidfd, count, place, 1, reserved)


def test_closing_it_twice_closes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that fails is cleaned up, and then closed: what stood in the way is told, not this."""
    monkeypatch.setattr(device, "PATH", os.devnull)
    monkeypatch.setattr(device.Device, "_info", lambda _: (device.VERSION, device.MAX_OPS, 0))
    one = device.Device()
    one.close()
    other = os.open(os.devnull, os.O_RDONLY)  # with the same number
    one.close()
    os.close(other)
