"""Two Docker hosts on one machine: what the demo, the tests and the benchmark stand on.

Each host has network, mount, UTS, IPC and PID namespaces of its own, its own dockerd on the stock
paths, its own sshd, and a veth pair to the other one. Neither sees the other's files, nor the
engine that the user of this machine may run.

    with two_hosts() as (a, b):
        load_images(a)
        a.run(["docker", "run", "-d", "-i", "--name", "recorder", RECORDER])
        a.run(["ssh", b.name, "docker", "ps"])
"""

from .config import HostConfig, state_root
from .images import BASE, RECORDER, load_images
from .machine import Host, HostProcess
from .pair import attach, bring_down, bring_up, cut, in_both, one_host, restart, two_hosts
from .proc import HostsError
from .snapshot import Snapshot, leaks, snapshot

__all__ = [
    "BASE",
    "RECORDER",
    "Host",
    "HostConfig",
    "HostProcess",
    "HostsError",
    "Snapshot",
    "attach",
    "bring_down",
    "bring_up",
    "cut",
    "in_both",
    "leaks",
    "load_images",
    "one_host",
    "restart",
    "snapshot",
    "state_root",
    "two_hosts",
]
