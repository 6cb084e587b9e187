"""The demonstration (make demo): a running container moves while somebody types into it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import NoReturn

import docker
from tests import pace
from tests.hosts import RECORDER, Host, HostsError, load_images, two_hosts
from tests.typist import Typist, TypistError

LIMIT = int(pace.limit(300))
NAME = "recorder"


class DemoError(RuntimeError):
    """The demonstration cannot go on; the message is one line."""


EXPECTED = (
    DemoError,
    HostsError,
    TypistError,
    OSError,
    subprocess.SubprocessError,
    docker.errors.DockerException,
)


def main() -> int:
    """Run it; 0 when every number arrived, 1 with one line of explanation otherwise."""
    # Apart from the hosts of `make hosts` and of the tests.
    os.environ.setdefault("LIVEMIG_HOSTS_DIR", "/var/tmp/livemig-demo")
    signal.signal(signal.SIGALRM, _too_late)
    signal.signal(signal.SIGTERM, _ended)
    signal.alarm(LIMIT)
    try:
        with two_hosts(setup=True) as (a, b):
            _show(a, b)
    except EXPECTED as problem:
        print(f"demo: {_one_line(problem)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; both hosts are gone", file=sys.stderr)
        return 130
    return 0


def _show(a: Host, b: Host) -> None:
    _title("Two Docker hosts on this machine, with nothing in common but a cable")
    for host in (a, b):
        version = host.api().version()["Version"]
        _say(f"{host.name}: {host.address}, Docker Engine {version}")
    load_images(a)
    _title(f"The number recorder runs in {a.name}, and somebody types numbers into it")
    _run(a, "docker", "run", "-d", "-i", "--name", NAME, RECORDER)
    with Typist((a, b), NAME) as typist:
        typist.wait_for(200)
        before = typist.verify()
        _say(f"its own answer: {before}")
        first = len(typist.acked)
        _title(f"It moves to {b.name}, with its memory, while the typing goes on")
        _move(a, b)
        during = len(typist.acked) - first
        typist.wait_for(200)
        after = typist.verify()
    _title("What the recorder itself says")
    _say(f"in {a.name}, before: {before}")
    _say(f"in {b.name}, after:  {after}")
    _judge(a, b, typist, during)


def _move(a: Host, b: Host) -> None:
    _run(a, "docker", "livemig", NAME, b.name)


def _judge(a: Host, b: Host, typist: Typist, during: int) -> None:
    if typist.host is not b:
        raise DemoError(f"the recorder answers from {typist.host}, not from {b.name}")
    if left := _containers(a):
        raise DemoError(f"{a.name} still has {left}")
    if _containers(b) != [NAME]:
        raise DemoError(f"{b.name} has {_containers(b)}")
    wait = typist.longest_wait * 1000
    _title("Good")
    _say(f"{len(typist.acked)} numbers typed, {during} of them while it moved:")
    _say("none lost, none twice, none out of order (count, hash over all, last eight, heap).")
    _say(f"The longest wait for an answer was {wait:.0f} ms, finding it in {b.name} included.")


def _containers(host: Host) -> list[str]:
    listed = host.run(["docker", "ps", "--all", "--format", "{{.Names}}"]).stdout
    return listed.split()


def _run(host: Host, *argv: str) -> None:
    if code := _try(host, *argv):
        raise DemoError(f"`{' '.join(argv)}` failed with exit code {code}")


def _try(host: Host, *argv: str) -> int:
    """Run a command as if it were typed in the host, and show what it writes."""
    _say(f"{host.name}# {' '.join(argv)}")
    with host.popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout or ():
                _say(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            process.kill()
            raise


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _say(text: str) -> None:
    print(f"   {text}", flush=True)


def _one_line(problem: BaseException) -> str:
    """Return what failed, and the last thing that was said about it."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return ": ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or repr(problem)


def _too_late(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise DemoError(f"not done after {LIMIT} s")


def _ended(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
