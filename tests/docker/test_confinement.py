"""What `docker run` confines a container by, field by field before a move and after it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livemig.errors import NotCarried
from tests.conftest import NothingLeft
from tests.docker import bpf
from tests.docker.confinement import confined, differences, filters
from tests.docker.moves import Pair, answers, inspect, move, refused, set_up
from tests.hosts import Host
from tests.hosts.config import REPO

pytestmark = pytest.mark.docker

NAME = "confined"
PROFILE = "/run/few.json"

# A profile of one's own: little is allowed, and what is not is answered in four other ways.
ALLOWED = """
access arch_prctl brk capget capset chdir clock_gettime clock_nanosleep clone dup3 epoll_ctl
epoll_pwait execve exit exit_group faccessat2 fchown fcntl fstat fstatfs futex getcwd getdents64
getegid geteuid getgid getpid getppid getrandom gettid getuid ioctl keyctl kill lseek lstat madvise
mmap mount mprotect munmap nanosleep newfstatat open openat pipe2 poll ppoll prctl pread64 prlimit64
read readlinkat restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn rt_tgsigqueueinfo
sched_getaffinity sched_yield set_robust_list set_tid_address setgid setgroups setitimer setuid
sigaltstack stat statx tgkill umask umount2 write close
""".split()
FEW: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "syscalls": [
        {"names": ALLOWED, "action": "SCMP_ACT_ALLOW"},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
        },
        {"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["chmod"], "action": "SCMP_ACT_TRAP"},
        {"names": ["rmdir"], "action": "SCMP_ACT_LOG"},
        {"names": ["sync"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99},
    ],
}
MKDIR, MKDIR_KILLS, SYNC = 83, 0x80000000, 162

NO_NEW = ("--security-opt", "no-new-privileges")
OWN = ("--security-opt", f"seccomp={PROFILE}")
NOTHING = ("--cap-drop", "ALL")
OPTIONS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "user": ("--user", "1234:4321", "--group-add", "7", "--group-add", "99"),
    "some-capabilities": (*NOTHING, "--cap-add", "NET_BIND_SERVICE", "--cap-add", "SYS_PTRACE"),
    "administrator": (
        *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--read-only"),
        *("--hostname", "h", "--domainname", "d.example"),
    ),
    "no-new-privileges": (*NO_NEW, "--user", "1000"),
    "own-profile": OWN,
    "no-profile": ("--security-opt", "seccomp=unconfined"),
    "read-only": ("--read-only",),
    "memory": (
        *("--memory", "64m", "--memory-swap", "128m", "--memory-reservation", "32m"),
        *("--memory-swappiness", "10", "--oom-kill-disable", "--pids-limit", "1"),
        *("--oom-score-adj", "500", "--shm-size", "1m"),
    ),
    "limits": (
        *("--cpus", "0.5", "--cpu-shares", "300", "--cpuset-cpus", "0", "--cpuset-mems", "0"),
        *("--blkio-weight", "300"),
        *("--ulimit", "nofile=16:16", "--ulimit", "core=0", "--ulimit", "nproc=30:40"),
        *("--ulimit", "stack=1048576", "--ulimit", "memlock=65536:65536"),
    ),
    "surroundings": (
        *("--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "net.core.somaxconn=77"),
        *("--sysctl", "kernel.shmmax=1000000", "--hostname", "h", "--domainname", "d.example"),
        *("--env", "A=b", "--env", "EMPTY=", "--workdir", "/tmp/x/y", "--cgroupns", "private"),
        *("--security-opt", "systempaths=unconfined"),
        *("--stop-signal", "INT", "--stop-timeout", "3", "--label", "x=y", "--label", "z"),
        *("--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"),
    ),
    "all-at-once": (
        *(*OWN, *NO_NEW, *NOTHING, "--user", "1000:7", "--read-only", "--memory", "64m"),
        *("--pids-limit", "20", "--ulimit", "nofile=100:200", "--oom-score-adj", "7"),
    ),
}


@pytest.fixture(scope="module")
def ready(hosts: Pair, recorder_image: str) -> Iterator[Pair]:
    """Both hosts, and the profile in a file of the first: only Docker's command reads it."""
    assert recorder_image
    set_up(hosts)
    profile = hosts[0].path(PROFILE)
    profile.write_text(json.dumps(FEW))
    yield hosts
    profile.unlink()


@pytest.fixture
def pair(ready: Pair, nothing_left: NothingLeft) -> Iterator[Pair]:
    """Remove the container wherever it is, and see that nothing else is left."""
    nothing_left.ignore("images")
    yield ready
    for host in ready:
        host.run(["docker", "rm", "-f", NAME], check=False)
    nothing_left.check()


def start(host: Host, image: str, *options: str) -> None:
    host.run(["docker", "run", "-d", "-i", "--name", NAME, *options, image])
    assert answers(host, NAME, "5") == "ok 1 5 1"


def exec_status(host: Host) -> str:
    """Return how a process is confined that comes into the container by `docker exec`."""
    words = ["grep", "-E", "^(Uid|Gid|Groups|Cap|NoNew|Seccomp)", "/proc/self/status"]
    return host.run(["docker", "exec", NAME, *words]).stdout


@pytest.mark.parametrize("what", OPTIONS)
def test_it_is_confined_as_it_was(pair: Pair, recorder_image: str, what: str) -> None:
    source, target = pair
    start(source, recorder_image, *OPTIONS[what])
    before = confined(source, NAME)
    move(source, NAME, target, "--verify")
    assert differences(before, confined(target, NAME)) == {}
    assert answers(target, NAME, "6") == "ok 2 6 2"


@pytest.mark.parametrize("options", [NOTHING, OWN], ids=["no-capability", "own-profile"])
def test_its_filters_decide_as_they_did(
    pair: Pair, recorder_image: str, options: tuple[str, ...]
) -> None:
    """Every system call of each architecture; and who comes in later is confined by them too."""
    source, target = pair
    start(source, recorder_image, *options)
    before, came_in = filters(source, NAME), exec_status(source)
    assert len(before) == 1
    if options == OWN:
        assert bpf.decide(before[0], MKDIR, bpf.X86_64) == MKDIR_KILLS
        assert bpf.decide(before[0], SYNC, bpf.X86_64) == bpf.ERRNO | 99
    move(source, NAME, target)
    after = filters(target, NAME)
    # The runtime may put architectures in another order, but no instruction more or less.
    assert [len(each) for each in after] == [len(each) for each in before]
    for one, other in zip(before, after, strict=True):
        assert bpf.verdicts(one) == bpf.verdicts(other)
    assert exec_status(target) == came_in


def test_what_was_updated_before(pair: Pair, recorder_image: str) -> None:
    source, target = pair
    start(source, recorder_image, "--memory", "64m", "--memory-swap", "64m")
    more = ["--memory", "96m", "--memory-swap", "96m", "--pids-limit", "33", "--cpu-shares", "99"]
    source.run(["docker", "update", *more, NAME])
    before = confined(source, NAME)
    move(source, NAME, target)
    assert differences(before, confined(target, NAME)) == {}


def test_it_starts_again_as_it_was(pair: Pair, recorder_image: str) -> None:
    source, target = pair
    start(source, recorder_image, *OPTIONS["all-at-once"])
    before = confined(source, NAME)
    move(source, NAME, target)
    target.run(["docker", "restart", "-t", "0", NAME])
    assert answers(target, NAME, "5") == "ok 1 5 1"
    assert differences(before, confined(target, NAME)) == {}


@pytest.fixture(scope="module")
def carried() -> Path:
    """The program that confines itself further, and checks that."""
    built = REPO / "build" / "workloads" / "carried-static"
    built.parent.mkdir(parents=True, exist_ok=True)
    place = REPO / "tests" / "workloads"
    sources = [*sorted(place.glob("carried*.c")), place / "registers.c", place / "registers.S"]
    flags = ["-std=gnu11", "-O1", "-static", "-pthread", "-o"]
    subprocess.run(["cc", *flags, built, *sources], check=True, timeout=60)
    return built


MOVES = [pytest.param(6, id="6"), pytest.param(40, id="40", marks=pytest.mark.long)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("moves", MOVES)
def test_filters_do_not_pile_up(pair: Pair, recorder_image: str, carried: Path, moves: int) -> None:
    """To and fro: Docker's filter and the program's own stay two, whatever the runtime installs."""
    source, _ = pair
    api = source.api()
    try:
        # `docker create -i` would have standard input end with the first who leaves.
        api.create_container(
            recorder_image,
            ["/tmp"],
            entrypoint=["/bin/carried"],
            name=NAME,
            stdin_open=True,
            detach=True,
            host_config=api.create_host_config(restart_policy={"Name": "no"}),
        )
    finally:
        api.close()
    source.run(["docker", "cp", str(carried), f"{NAME}:/bin/carried"])
    source.run(["docker", "start", NAME])
    assert answers(source, NAME, "confine") == "confined"
    before = confined(source, NAME)
    lengths = [len(each) for each in filters(source, NAME)]
    assert len(lengths) == 2
    for number in range(moves):
        here, there = pair[number % 2], pair[1 - number % 2]
        move(here, NAME, there)
        assert [len(each) for each in filters(there, NAME)] == lengths, f"move {number + 1}"
        assert answers(there, NAME, "confined") == "yes"
    assert differences(before, confined(pair[moves % 2], NAME)) == {}


@pytest.mark.skipif(
    not Path("/sys/kernel/security/apparmor/profiles").exists(),
    reason="this kernel has no AppArmor",
)
@pytest.mark.parametrize("profile", ["docker-default", "unconfined"])
def test_the_apparmor_profile(pair: Pair, recorder_image: str, profile: str) -> None:
    source, target = pair
    option = [] if profile == "docker-default" else ["--security-opt", f"apparmor={profile}"]
    start(source, recorder_image, *option)
    before = confined(source, NAME)
    assert before["attr/current"].startswith(profile)
    move(source, NAME, target)
    assert differences(before, confined(target, NAME)) == {}
    assert answers(target, NAME, "6") == "ok 2 6 2"


def test_a_privileged_container_is_refused(pair: Pair, recorder_image: str) -> None:
    source = pair[0]
    run = ["docker", "run", "-d", "-i", "--name", NAME, "--privileged", recorder_image]
    if "unable to apply caps" in source.run(run, check=False).stderr:
        pytest.skip("this machine has not all capabilities to give away")
    before = inspect(source, NAME)["State"]["Pid"]
    refused(source, NAME, "lmb", NotCarried, "--privileged")
    assert inspect(source, NAME)["State"]["Pid"] == before


def test_the_comparison_sees_a_difference(pair: Pair, recorder_image: str) -> None:
    """Each place that it looks at: the process, its groups, its mounts, what Docker knows."""
    source = pair[0]
    start(source, recorder_image)
    before = confined(source, NAME)
    source.run(["docker", "update", "--cpu-shares", "99", NAME])
    pid = inspect(source, NAME)["State"]["Pid"]
    os.sched_setaffinity(source.outer_pid(pid), {0})
    source.run(["nsenter", "-t", str(pid), "-u", "hostname", "other"])
    source.run(["nsenter", "-t", str(pid), "-m", "-p", "mount", "-o", "remount,bind,ro", "/"])
    found = " ".join(differences(before, confined(source, NAME)))
    for word in ("status Cpus_allowed", "docker CpuShares", "mount 0", "hostname"):
        assert word in found
    assert "cpu.shares" in found or "cpu.weight" in found  # cgroup v1, or v2
