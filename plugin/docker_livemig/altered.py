"""What a container that may has altered of what Docker made for it: network, names, mounts.

Docker makes all of that anew on the target, so that a firewall, say, would be open there. Whoever
lacks the capabilities cannot alter it, and is not looked at.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from docker_livemig.containers import ContainerSpec
from livemig.system import procfs
from livemig.system.handles import CLONE_NEWNET, CLONE_NEWUTS, seen_inside
from livemig.system.mounts import Mount, read_mounts

_NET_ADMIN, _SYS_ADMIN = 12, 21  # linux/capability.h
_UP = 1  # IFF_UP
_MAIN = 254  # RT_TABLE_MAIN
_PRIORITIES = (None, 0, 32766, 32767)  # of the rules that each namespace has
_LEGACY = ("ip_tables_names", "ip6_tables_names", "arp_tables_names")
_UNKNOWN = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
_LOOPBACK, _INTERFACE = "lo", "eth0"
_UNNAMED = "(none)"


def altered(spec: ContainerSpec, pid: int) -> Iterator[str]:
    """Yield, in words for users, what is otherwise than Docker made it; ``pid`` is in there."""
    if _may(pid, _NET_ADMIN):
        own = {str(ip_interface(address).ip) for address in spec.addresses}
        yield from seen_inside(pid, "net", CLONE_NEWNET, lambda: _network(own))
    if _may(pid, _SYS_ADMIN):
        yield from _other_network(pid)
        yield from _names(spec, *seen_inside(pid, "uts", CLONE_NEWUTS, _read_names))


def _may(pid: int, capability: int) -> bool:
    return bool(int(procfs.read_status(pid)["CapBnd"], 16) >> capability & 1)


# The network namespace


def _network(own: set[str]) -> list[str]:
    from pyroute2 import IPRoute  # noqa: PLC0415  takes its time, and few need it

    with IPRoute() as route:
        links = list(route.get_links())
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
        found = [
            f"the network interface {names[link['index']]}, which was made inside it"
            for link in links
            if link["flags"] & _UP and names[link["index"]] not in (_LOOPBACK, _INTERFACE)
        ]
        found += _addresses(route, names, own)
        found += _routes(route, names)
        rules = [*route.get_rules(family=2), *_known(lambda: list(route.get_rules(family=10)))]
        if any(rule.get_attr("FRA_PRIORITY") not in _PRIORITIES for rule in rules):
            found.append("rules of routing (ip rule), which were made inside it")
    return found + _filters()


def _addresses(route: Any, names: dict[int, str], own: set[str]) -> list[str]:
    found = []
    for address in route.get_addr(family=2):
        name, text = names.get(address["index"], "?"), str(address.get_attr("IFA_ADDRESS"))
        if text not in own and not (name == _LOOPBACK and text.startswith("127.")):
            found.append(f"the address {text} of {name}, which was given inside it")
    return found


def _routes(route: Any, names: dict[int, str]) -> list[str]:
    """Docker makes a default route, and the kernel one to each network that is near."""
    found, default = [], False
    for each in route.get_routes(family=2, table=_MAIN):
        name, near = names.get(each.get_attr("RTA_OIF"), "?"), each["proto"] == 2
        if name == _INTERFACE and not each["dst_len"] and not default:
            default = True
        elif not near:
            to = f"{each.get_attr('RTA_DST') or 'default'}/{each['dst_len']}"
            found.append(f"the route to {to}, which was made inside it")
    if _INTERFACE in names.values() and not default:
        found.append("no default route, which was removed inside it")
    return found


def _filters() -> list[str]:
    found = _known(_tables)
    for name in _LEGACY:
        path = Path(f"/proc/thread-self/net/{name}")
        found += path.read_text().split() if path.exists() else []
    return [f"the table {name} of its packet filter, which was made inside it" for name in found]


def _tables() -> list[str]:
    """Return the tables of nftables."""
    from pyroute2.nftables.main import NFTables  # noqa: PLC0415

    with NFTables() as tables:
        return [table.get_attr("NFTA_TABLE_NAME") for table in tables.get_tables()]


def _known(ask: Callable[[], list[Any]]) -> list[Any]:
    """Return what is asked for, nothing where the kernel does not know such things."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    try:
        return ask()
    except (OSError, NetlinkError) as error:
        if (error.code if isinstance(error, NetlinkError) else error.errno) not in _UNKNOWN:
            raise
        return []


def _other_network(pid: int) -> Iterator[str]:
    """Yield where a process has left the network namespace that Docker has mounted for it."""
    mounted = {mount.root for mount in read_mounts(os.getpid()) if mount.kind == "nsfs"}
    own = os.readlink(f"/proc/{pid}/ns/net")
    if any(root.startswith("net:") for root in mounted) and own not in mounted:
        yield "a network namespace, which was made inside it"


# The UTS namespace


def _read_names() -> tuple[str, str]:
    directory = Path("/proc/sys/kernel")
    host, domain = ((directory / name).read_text().strip() for name in ("hostname", "domainname"))
    return host, domain


def _names(spec: ContainerSpec, host: str, domain: str) -> Iterator[str]:
    wanted = spec.config.get("Hostname"), spec.config.get("Domainname") or _UNNAMED
    for what, found, due in zip(("host", "domain"), (host, domain), wanted, strict=True):
        if found != due:
            yield f"the {what} name {found!r}, which was changed inside the container"


# Mounts


def _root(pid: int) -> str:
    return f"/proc/{pid}/root"


def unmade(asked: list[str], mounts: list[Mount], pid: int, *, read_only: bool) -> Iterator[str]:
    """Yield what the bundle asks for, and what is mounted no more, or in another way.

    ``asked`` are the places, ``read_only`` tells whether its root is asked to be so.
    """
    if not _may(pid, _SYS_ADMIN):
        return
    points = {mount.point for mount in mounts}
    for place in sorted(set(asked) - points):
        path = f"{_root(pid)}{place}"
        if os.path.lexists(path) and not os.path.islink(path):  # where a link leads, runc mounts
            yield f"no mount at {place}, which was unmounted inside it"
    if any(mount.point == "/" and mount.read_only is not read_only for mount in mounts):
        yield "the mount at /, which was mounted in another way (remount) inside it"
