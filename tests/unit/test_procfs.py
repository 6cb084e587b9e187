"""What /proc tells is read right, odd names included; every process may look at itself."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from livemig.errors import InternalError
from livemig.system import procfs

ME = os.getpid()
PROTECTIONS = {1: mmap.PROT_READ, 3: mmap.PROT_READ | mmap.PROT_WRITE, 0: 0}


@contextmanager
def mapped_file(path: Path, *, shared: bool, offset: int = 0) -> Iterator[procfs.Area]:
    """Map a page of a file, and yield the area that /proc shows for it."""
    path.write_bytes(bytes(4 * mmap.PAGESIZE))
    kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    known = {area.start for area in procfs.read_areas(ME)}
    with open(path, "r+b") as file:
        data = mmap.mmap(file.fileno(), mmap.PAGESIZE, kind, mmap.PROT_READ, offset=offset)
    with data:
        inode = path.stat().st_ino
        (area,) = [a for a in procfs.read_areas(ME) if a.inode == inode and a.start not in known]
        yield area


@pytest.mark.parametrize("name", ["plain", "two words", " lead", "line\nbreak", "gone (deleted)"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_mapped_file_is_told_with_its_name(tmp_path: Path, name: str, shared: bool) -> None:
    path = tmp_path / name
    with mapped_file(path, shared=shared, offset=2 * mmap.PAGESIZE) as area:
        assert area.name == str(path)
        assert area.shared is shared
        assert area.prot == procfs.PROT_READ
        assert area.offset == 2 * mmap.PAGESIZE
        assert area.end - area.start == mmap.PAGESIZE


def test_a_name_that_is_not_text_survives(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    with mapped_file(path, shared=False) as area:
        assert os.fsencode(area.name) == os.fsencode(path)


@pytest.mark.parametrize("told", [True, False], ids=["told", "looked-for"])
def test_children_are_told_until_they_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Also by a kernel that has no list of them."""
    read = procfs.read_text

    def read_no_list(path: str) -> str:
        if path.endswith("/children") and not told:
            raise FileNotFoundError(2, "No such file or directory")
        return read(path)

    monkeypatch.setattr(procfs, "read_text", read_no_list)
    before = set(procfs.children(ME))
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert set(procfs.children(ME)) - before == {child.pid}
    assert child.wait() == 0
    assert set(procfs.children(ME)) == before


def test_areas_ascend_and_leave_vsyscall_out() -> None:
    areas = procfs.read_areas(ME)
    places = [place for area in areas for place in (area.start, area.end)]
    assert places == sorted(places)
    names = {area.name for area in areas}
    assert {"[stack]", "[vdso]"} <= names
    assert "[vsyscall]" not in names


def area(start: int, end: int) -> procfs.Area:
    return procfs.Area(start, end, 3, False, 0, "00:00", 0, "")


def test_a_list_that_shows_an_area_twice_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel writes it a page at a time, and what moves meanwhile shows at both places."""
    torn, whole = [area(1, 3), area(2, 4)], [area(1, 3), area(3, 4)]
    lists = iter([torn, torn, whole])
    monkeypatch.setattr(procfs, "_read_areas", lambda _: next(lists))
    assert procfs.read_areas(ME) == whole


def test_a_list_that_is_never_whole_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "_read_areas", lambda _: [area(1, 3), area(1, 3)])
    with pytest.raises(InternalError, match=f"process {ME}"):
        procfs.read_areas(ME)


def test_the_program_itself_is_readable_and_executable() -> None:
    program = os.path.realpath(sys.executable)
    areas = [area for area in procfs.read_areas(ME) if area.name == program]
    assert any(area.prot == procfs.PROT_READ | procfs.PROT_EXEC for area in areas)


def test_flags_belong_to_their_area() -> None:
    flags = {start: found.flags for start, found in procfs.read_area_details(ME).items()}
    areas = {area.start: area for area in procfs.read_areas(ME)}
    common = areas.keys() & flags.keys()
    assert len(common) > len(areas) * 0.9
    for start in common:
        assert ("wr" in flags[start]) == bool(areas[start].prot & procfs.PROT_WRITE)
        assert ("ex" in flags[start]) == bool(areas[start].prot & procfs.PROT_EXEC)


@pytest.mark.parametrize("name", ["plain", ") S 1 (", "a b", "x)"])
def test_stat_is_read_whatever_the_name_of_the_process(name: str) -> None:
    code = (
        "import sys; open('/proc/self/comm', 'w').write(sys.argv[1]); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-ISc", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        fields = procfs.read_stat(child.pid)
        assert fields[0] == str(child.pid)
        assert fields[1] == name
        assert fields[3] == str(ME)
        assert procfs.read_status(child.pid)["Name"] == name
        child.stdin.close()


def test_a_start_is_known_to_a_fraction_of_a_second() -> None:
    before = time.time()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        after = time.time()
        started = procfs.started(child.pid)
        assert child.stdin is not None
        child.stdin.close()
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before - 2 * tick < started < after + 2 * tick


def test_status_is_read_of_processes_and_threads() -> None:
    status = procfs.read_status(ME)
    assert status["Pid"] == str(ME)
    assert status["Uid"].split()[0] == str(os.getuid())
    assert procfs.read_status(ME, ME)["Tgid"] == str(ME)
    assert procfs.threads(ME)[0] == ME
    assert procfs.namespaced_id(ME) > 0


def test_descriptors_are_told_with_flags_and_position(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.lseek(descriptor, 7, os.SEEK_SET)
        assert descriptor in procfs.descriptors(ME)
        info = procfs.descriptor_info(ME, descriptor)
        assert info["pos"] == "7"
        assert int(info["flags"], 8) & (os.O_ACCMODE | os.O_APPEND) == os.O_RDWR | os.O_APPEND
        assert int(info["flags"], 8) & os.O_CLOEXEC
    finally:
        os.close(descriptor)


def test_clock_offsets_are_those_of_the_time_namespace() -> None:
    lines = Path("/proc/self/timens_offsets")
    if not lines.exists():
        pytest.skip("this kernel has no time namespaces")
    words = {line.split()[0]: line.split()[1:] for line in lines.read_text().splitlines()}
    wanted = tuple(
        int(words[name][0]) * 10**9 + int(words[name][1]) for name in ("monotonic", "boottime")
    )
    assert procfs.clock_offsets(ME) == wanted


def test_a_process_that_is_gone_is_told_as_such() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        procfs.read_areas(child.pid)


def test_a_mapped_file_may_be_called_anything(tmp_path: Path) -> None:
    """Only a line feed ends a line of the kernel's, and it writes that of a name otherwise."""
    place = tmp_path / "a\rzz\x0bb\x85c\nd"
    place.write_bytes(b"x" * mmap.PAGESIZE)
    with (
        place.open("rb") as file,
        mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ),
    ):
        (area,) = (a for a in procfs.read_areas(os.getpid()) if a.name == str(place))
        assert area.start in procfs.read_area_details(os.getpid())


def test_the_name_of_a_process_is_one_field() -> None:
    with Path("/proc/self/comm").open("r+b", buffering=0) as file:
        own = file.read()
        file.write(b"a\x0cExtra:\tb")
        try:
            status = procfs.read_status(os.getpid())
        finally:
            file.write(own.rstrip())
    assert (status["Name"], "Extra" in status) == ("a\x0cExtra:\tb", False)
