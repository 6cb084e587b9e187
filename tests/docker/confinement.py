"""Everything by which the first process of a container is confined, field by field, from outside.

`confined` reads it from /proc, from the control groups and from the namespaces of the process, so
that a test can compare what it was before a move with what it is after. What names the container,
its host or their directories is put in general words: only that may differ.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import docker
from livemig.system import ptrace
from livemig.tracing import Tracee
from tests.hosts import Host

Fields = dict[str, str]

# What counts, names a process, or changes within a system call, in /proc/PID/status.
_PASSING = re.compile(
    r"(Vm|Rss|State|Tgid|Pid|PPid|TracerPid|NS|FDSize|Hugetlb|SigQ|SigBlk|\w*volunt).*"
)
# Files of control groups that can be written, but are no setting: counters, and orders.
_COUNTERS = re.compile(
    r"cgroup\..*|tasks|notify_on_release|cpuacct\.usage|freezer\.state|.*\.(failcnt|peak|pressure)|"
    r".*max_usage_in_bytes|.*\.reclaim|.*force_empty|.*memory_pressure.*|.*reset_stats|.*\.stat"
)
_READ_ONLY_SETTINGS = ("devices.list",)
_PLAIN = ("limits", "environ", "cmdline", "oom_score_adj", "personality", "coredump_filter")
_MAPS = ("uid_map", "gid_map", "projid_map", "setgroups", "timerslack_ns", "loginuid", "cpuset")
_LINKS = ("cwd", "exe", "root")
# Kept by namespaces: whoever reads them sees those of its own.
SYSCTLS = (
    *("kernel/hostname", "kernel/domainname", "kernel/shmmax", "kernel/shm_rmid_forced"),
    *("kernel/msgmax", "net/ipv4/ip_forward", "net/ipv4/ip_unprivileged_port_start"),
    "net/core/somaxconn",
)


def first_process(host: Host, container: str) -> int:
    """Return the machine's ID of the container's first process."""
    api = host.api()
    try:
        return host.outer_pid(int(api.inspect_container(container)["State"]["Pid"]))
    finally:
        api.close()


def confined(host: Host, container: str) -> Fields:
    """Return all fields; a field is named by where it is read."""
    api = host.api()
    try:
        found = api.inspect_container(container)
    finally:
        api.close()
    pid = host.outer_pid(int(found["State"]["Pid"]))
    fields = {
        **_status(pid),
        **_files(pid),
        **_namespaces(pid),
        **_mounts(pid),
        **_groups(host, pid),
        **_docker(found),
    }
    general = [
        (found["Id"], "CONTAINER"),
        (host.config.cgroup, "GROUP"),
        (str(host.dir), "HOST"),
    ]
    return {name: _general(value, general) for name, value in fields.items()}


def differences(before: Fields, after: Fields) -> dict[str, tuple[str | None, str | None]]:
    """Return the fields that are not the same, with both values."""
    names = sorted(before.keys() | after.keys())
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def filters(host: Host, container: str) -> list[bytes]:
    """Return the seccomp filters of the first process, the oldest first, 8 bytes an instruction."""
    tracee = Tracee(first_process(host, container))
    tracee.attach()
    try:
        tracee.stop()
        found: list[bytes] = []
        while (program := ptrace.seccomp_filter(tracee.tid, len(found))) is not None:
            found.append(program)
        return found
    finally:
        tracee.detach()


def _general(value: str, words: list[tuple[str, str]]) -> str:
    for word, general in words:
        value = value.replace(word, general)
    return value


def _status(pid: int) -> Fields:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = [line.split(":", 1) for line in lines]
    return {f"status {name}": value for name, value in pairs if not _PASSING.fullmatch(name)}


def _files(pid: int) -> Fields:
    found = {f"link {name}": os.readlink(f"/proc/{pid}/{name}") for name in _LINKS}
    for name in (*_PLAIN, *_MAPS, "attr/current"):
        try:
            found[name] = Path(f"/proc/{pid}/{name}").read_text()
        except OSError as error:  # this kernel has none
            found[name] = str(error.strerror)
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    # Numbers as in proc(5), less the three before: priority, nice, rt_priority, policy.
    found |= {f"stat {number}": fields[number - 3] for number in (18, 19, 40, 41)}
    return found


def _namespaces(pid: int) -> Fields:
    enter = ["nsenter", "--target", str(pid), "--net", "--ipc", "--uts"]
    script = 'for name; do echo "$(cat /proc/sys/$name)"; done'
    done = subprocess.run(
        [*enter, "sh", "-c", script, "sh", *SYSCTLS],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    lines = done.stdout.splitlines()
    found = {f"sysctl {name}": value for name, value in zip(SYSCTLS, lines, strict=True)}
    own = {
        name: os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
        for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    }
    return {**found, **{f"shares {name}": str(same) for name, same in own.items()}}


def _mounts(pid: int) -> Fields:
    found = {}
    for number, line in enumerate(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()):
        words = line.split()
        end = words.index("-")
        kind, options = words[end + 1], words[end + 3]
        if kind == "overlay":  # where its layers are
            options = ",".join(word for word in options.split(",") if "dir=" not in word)
        propagation = [word.split(":")[0] for word in words[6:end]]
        where = f"mount {number} {words[4]}"
        found[where] = " ".join([words[3], words[5], *propagation, kind, options])
    return found


def _groups(host: Host, pid: int) -> Fields:
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        place = names.removeprefix("name=")
        top = f"/sys/fs/cgroup/{place}" if names else _unified(host)
        found[f"cgroup {names}"] = path
        for file in sorted(host.path(f"{top}{path}").iterdir()):
            if _is_setting(file):
                found[f"cgroup {names} {file.name}"] = _read(file)
    return found


def _unified(host: Host) -> str:
    one = host.path("/sys/fs/cgroup/cgroup.controllers").exists()
    return "/sys/fs/cgroup" if one else "/sys/fs/cgroup/unified"


def _is_setting(file: Path) -> bool:
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode) or _COUNTERS.fullmatch(file.name):
        return False
    both = stat.S_IRUSR | stat.S_IWUSR
    return mode & both == both or file.name in _READ_ONLY_SETTINGS


def _read(file: Path) -> str:
    try:
        text = file.read_text()
    except OSError as error:  # swap accounting that the kernel does not do, for one
        return str(error.strerror)
    if file.name == "memory.oom_control":  # the rest of it counts
        return text.splitlines()[0]
    return text


def _docker(found: docker.types.ContainerConfig) -> Fields:
    host = {key: value for key, value in found["HostConfig"].items() if key != "Runtime"}
    fields = {f"docker {key}": repr(value) for key, value in {**found["Config"], **host}.items()}
    return {**fields, "docker AppArmorProfile": found["AppArmorProfile"]}
