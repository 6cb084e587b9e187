"""Children get what they are given and nothing else, and are ended by their pidfd."""

from __future__ import annotations

import os
import pwd
import signal
import sys
import time

import pytest

from livemig.spawn import Result, Tail, last_line, run, spawn
from tests.unit.leftovers import nothing_left

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)


def test_run_returns_what_was_written() -> None:
    script = "read x; echo got $x; echo oops >&2; exit 3"
    result = run(["sh", "-c", script], timeout=5, stdin=b"word\n")
    assert result == Result(("sh", "-c", script), 3, b"got word\n", b"oops\n")
    assert result.last_line == "oops"


def test_run_is_bounded_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"sleep took longer than 0\.2 s"):
        run(["sleep", "60"], timeout=0.2)
    assert time.monotonic() - started < 5


def test_what_cannot_be_started_is_an_oserror() -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["/nonexistent/program"])
    with pytest.raises(FileNotFoundError):
        run(["/nonexistent/program"], timeout=1)


def test_no_descriptor_is_inherited_by_accident() -> None:
    stray = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(stray, True)
    reader, writer = os.pipe()
    script = "ls -l /proc/self/fd"
    with spawn(["sh", "-c", script], stdout=writer) as child:
        os.close(writer)
        assert child.wait(5) == 0
        with open(reader) as output:
            listing = [line.split()[-3:] for line in output.read().splitlines()[1:]]
    os.close(stray)
    opened = {number: target for number, _, target in listing}
    assert opened["0"] == opened["2"] == "/dev/null"
    assert opened["1"].startswith("pipe:")
    assert len(opened) == 4  # and the directory that ls reads


def test_wait_and_kill() -> None:
    with spawn(["sleep", "60"], new_session=True) as child:
        assert child.wait(0.05) is None
        assert os.getsid(child.pid) == child.pid
        child.kill(signal.SIGTERM)
        assert child.wait(5) == -signal.SIGTERM
        assert child.wait(5) == child.returncode == -signal.SIGTERM
        child.kill()  # ended: nothing happens


def test_end_becomes_stronger() -> None:
    script = "import signal,time; signal.signal(15, signal.SIG_IGN); print(flush=True);"
    reader, writer = os.pipe()
    child = spawn([sys.executable, "-c", script + "time.sleep(60)"], stdout=writer)
    os.close(writer)
    assert os.read(reader, 1) == b"\n"
    os.close(reader)
    assert child.end(0.1) == -signal.SIGKILL
    assert spawn(["sh", "-c", "exit 4"]).end() == 4


def test_leaving_the_scope_ends_the_child() -> None:
    with spawn(["sleep", "60"]) as child:
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_tail_of_standard_error() -> None:
    tail = Tail()
    script = "seq 10000 >&2; echo the end >&2"
    with spawn(["sh", "-c", script], stderr=tail.fd) as child:
        assert child.wait(5) == 0
    text = tail.text()
    assert text.endswith(b"10000\nthe end\n")
    assert len(text) == 8192


def test_last_line_is_fit_to_be_shown() -> None:
    assert last_line(b"one\ntwo \x1b[31mred\xff\r\n\n") == "two [31mred\ufffd"
    assert last_line(b"") == ""
    assert len(last_line(b"x" * 5000)) == 300


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_child_becomes_another_user() -> None:
    nobody = pwd.getpwnam("nobody")
    reader, writer = os.pipe()
    with spawn(["id"], stdout=writer, user="nobody", cwd="/") as child:
        os.close(writer)
        assert child.wait(5) == 0
    with open(reader) as output:
        text = output.read()
    assert f"uid={nobody.pw_uid}(nobody)" in text
    assert "root" not in text
