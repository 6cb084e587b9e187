"""The files that Docker writes for each container, and whether the container has changed them.

Docker makes /etc/hosts, /etc/hostname and /etc/resolv.conf anew on every host, from what it knows
of the container: what the container wrote there would be lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_interface
from pathlib import Path

from docker_livemig.containers import ContainerSpec
from livemig.system import procfs

_MOST = 1 << 20  # bytes that are looked at: Docker's own are a hundredth of that
_SHOWN = 60  # characters of a line
_WRITTEN_BY_DOCKER = 1.0  # seconds after the start of the first process
_RESOLVER = "127.0.0.11"
_GATEWAY = "host-gateway"

# moby's libnetwork/etchosts; of 26 and later some lines are missing where there is no IPv6.
_STANDARD = {
    "127.0.0.1": {"localhost"},
    "::1": {"localhost", "ip6-localhost", "ip6-loopback"},
    "fe00::": {"ip6-localnet"},
    "ff00::": {"ip6-mcastprefix"},
    "ff02::1": {"ip6-allnodes"},
    "ff02::2": {"ip6-allrouters"},
}


def edited_files(spec: ContainerSpec, pid: int) -> Iterator[str]:
    """Yield, in words for users, each of the files that is not as Docker wrote it.

    ``pid`` is the container's first process.
    """
    for name in ("hosts", "hostname", "resolv.conf"):
        with suppress(FileNotFoundError):  # of a container that is just being removed
            if edit := _edit(name, spec, pid):
                yield f"the file /etc/{name}, which was changed inside the container ({edit})"


def _edit(name: str, spec: ContainerSpec, pid: int) -> str:
    directory = Path(spec.directory)
    content = _content(directory / name)
    if name == "hosts":
        return hosts_edit(content.decode(errors="replace"), spec)
    if name == "hostname":
        return _hostname_edit(content, spec)
    return _resolv_edit(content, directory, pid)


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MOST)


def hosts_edit(text: str, spec: ContainerSpec) -> str:
    """Return what of an /etc/hosts cannot be Docker's, or nothing; comments do not matter."""
    left = {"localhost", *_extra_names(spec)}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if not set(names) <= _names_of(address, spec):
            return f"its line {line.strip()[:_SHOWN]!r}"
        left.difference_update(names)
    return f"it lacks {', '.join(sorted(left))}" if left else ""


def _names_of(address: str, spec: ContainerSpec) -> set[str]:
    """Return the names that Docker may have written after an address."""
    names = set(_STANDARD.get(_canonical(address), ()))
    for name, its in _extra_hosts(spec):
        if its == _GATEWAY or _canonical(its) == _canonical(address):
            names.add(name)
    return names | _own_names(spec) if _is_near(address, spec) else names


def _is_near(address: str, spec: ContainerSpec) -> bool:
    """Tell whether an address is, or may have been, the container's own.

    Engines leave the line of one that it had before it was disconnected from the network (20.10).
    """
    with suppress(ValueError):
        return any(ip_address(address) in ip_interface(own).network for own in spec.addresses)
    return False


def _own_names(spec: ContainerSpec) -> set[str]:
    host, domain = (str(spec.config.get(key) or "") for key in ("Hostname", "Domainname"))
    whole = f"{host}.{domain}" if domain else host
    return {host, whole, whole.partition(".")[0]}


def _extra_names(spec: ContainerSpec) -> set[str]:
    """Return the names of --add-host that must be there: Docker leaves out IPv6 where it is off."""
    return {name for name, address in _extra_hosts(spec) if _is_ipv4(address)}


def _is_ipv4(address: str) -> bool:
    return "." in address and ":" not in address


def _extra_hosts(spec: ContainerSpec) -> Iterator[tuple[str, str]]:
    for word in spec.host_config.get("ExtraHosts") or []:
        name, _, address = word.replace("=", ":", 1).partition(":")
        yield name, address.strip("[]")


def _canonical(address: str) -> str:
    """Return an address in the one way of writing it: fe00::0 is fe00::."""
    with suppress(ValueError):
        return str(ip_address(address))
    return address


def _hostname_edit(content: bytes, spec: ContainerSpec) -> str:
    name = str(spec.config.get("Hostname") or "")
    if content == f"{name}\n".encode():
        return ""
    return f"it says {content.decode(errors='replace').strip()[:_SHOWN]!r}, not {name!r}"


def _resolv_edit(content: bytes, directory: Path, pid: int) -> str:
    """Compare with the digest that Docker keeps beside the file, where it does, else the times."""
    try:
        digest = _content(directory / "resolv.conf.hash").decode(errors="replace").strip()
    except FileNotFoundError:
        written = (directory / "resolv.conf").stat().st_ctime  # which nobody can set back
        late = written > procfs.started(pid) + _WRITTEN_BY_DOCKER
        return "after it was started" if late else ""
    same = digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return "" if same or _of_resolver(content) else "Docker keeps another digest of it"


def _of_resolver(content: bytes) -> bool:
    """Tell whether it names Docker's own resolver, for which older engines keep no new digest.

    They write that when a container joins a network of the user's, and leave it (20.10, rebuildDNS
    of libnetwork's sandbox).
    """
    lines = [line.split() for line in content.decode(errors="replace").splitlines()]
    servers = [words[1:] for words in lines if words[:1] == ["nameserver"]]
    return servers == [[_RESOLVER]]
