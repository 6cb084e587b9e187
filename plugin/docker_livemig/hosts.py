"""HOST: what the user calls the other host, and how its peer is reached.

HOST is the name of a docker context with an ssh endpoint, a bare name or address that ssh knows, or
ssh://[user@]host[:port]. No part of it ever reaches a shell: the remote command is fixed, and what
could be taken for an option of ssh is refused.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from livemig.errors import (
    HostError,
    HostUnknown,
    HostUnreachable,
    LivemigError,
    NoDocker,
    NoPlugin,
    NotRoot,
    UsageError,
)
from livemig.spawn import last_line

REMOTE_COMMAND = ("docker", "livemig", "peer", "--stdio")
LOCAL_SOCKET = "unix:///var/run/docker.sock"
INSTALL_HINT = (
    "install docker-livemig there, with its link in /usr/local/lib/docker/cli-plugins/, and run "
    "`docker livemig setup` as root"
)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]*")
# What docker 20.10 to 28 say to a command that they do not know; the flag is looked at first.
_NO_PLUGIN = "'livemig' is not a docker command|unknown command: docker livemig|flag: --stdio"
_SSH_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
    "Compression=no",
    "ControlMaster=no",
    "ControlPath=none",
    "Ciphers=^aes128-gcm@openssh.com",
)


@dataclass(frozen=True)
class Destination:
    """A host that ssh reaches; ``name`` is what the user called it, for messages."""

    name: str
    host: str
    user: str = ""
    port: int = 0

    @property
    def url(self) -> str:
        """Return it as ssh://[user@]host[:port]."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


def config_dir() -> Path:
    """Return the directory of the docker command's configuration."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def resolve(host: str, config: Path | None = None) -> Destination:
    """Return the destination that HOST names; a docker context of that name wins.

    Raises UsageError where HOST is malformed, HostUnknown where the context has no ssh endpoint.
    """
    if "://" in host:
        return parse_url(host, name=host)
    endpoint = context_endpoint(host, config)
    if endpoint is None:
        return parse_url(f"ssh://{_bracketed(host)}", name=host)
    if not endpoint.startswith("ssh://"):
        raise HostUnknown(
            f"docker context {host!r} has the endpoint {endpoint or 'none'!r}, not one by ssh",
            hint=f"give ssh://[user@]host[:port], or a context made with "
            f"`docker context create {host} --docker host=ssh://...`",
        )
    return parse_url(endpoint, name=host)


def parse_url(url: str, *, name: str) -> Destination:
    """Return the destination of an ssh:// URL. Raises UsageError where it is malformed."""
    parts, port = _split(url, name)
    if parts.scheme != "ssh":
        raise _bad_host(name, f"{parts.scheme}:// is not ssh://")
    if parts.password is not None:
        raise _bad_host(name, "a password cannot be given; ssh must get in with a key")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _bad_host(name, "nothing may follow the host and the port")
    user, host = parts.username or "", parts.netloc.rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if not _HOST.fullmatch(host):
        raise _bad_host(name, f"{host!r} cannot be the name of a host")
    if "@" in parts.netloc and not _USER.fullmatch(user):
        raise _bad_host(name, f"{user!r} cannot be the name of a user")
    return Destination(name, host, user, port)


def context_endpoint(name: str, config: Path | None = None) -> str | None:
    """Return the docker endpoint of a context, None where there is no context of that name."""
    for meta in sorted(((config or config_dir()) / "contexts" / "meta").glob("*/meta.json")):
        try:
            data = json.loads(meta.read_text())
            if data["Name"] == name:
                return str(data.get("Endpoints", {}).get("docker", {}).get("Host", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a context that docker could not read either
    return None


def current_endpoint(host: str = "", context: str = "", config: Path | None = None) -> str:
    """Return the endpoint that the docker command would use, in its own order of precedence.

    ``host`` and ``context`` are the values of --host and --context. Raises UsageError where the
    context does not exist.
    """
    if host and context:
        raise UsageError("--host and --context exclude each other")
    if not context:
        host = host or os.environ.get("DOCKER_HOST", "")
        if host:
            return host
        context = os.environ.get("DOCKER_CONTEXT", "") or _configured_context(config)
    if context in ("", "default"):
        return LOCAL_SOCKET
    endpoint = context_endpoint(context, config)
    if endpoint is None:
        raise UsageError(f"docker context {context!r} does not exist", hint="see docker context ls")
    return endpoint or LOCAL_SOCKET


def ssh_argv(to: Destination) -> list[str]:
    """Return the command that starts the peer on ``to`` and speaks to it over a pipe.

    LIVEMIG_SSH may hold further options of ssh; they win over those given here.
    """
    argv = ["ssh", *shlex.split(os.environ.get("LIVEMIG_SSH", "")), "-T", "-x", "-a"]
    for option in _SSH_OPTIONS:
        argv += ["-o", option]
    if to.port:
        argv += ["-p", str(to.port)]
    if to.user:
        argv += ["-l", to.user]
    return [*argv, "--", to.host, *REMOTE_COMMAND]


def diagnose(name: str, returncode: int | None, stderr: bytes) -> LivemigError:
    """Return the error that stands for a peer on ``name`` that ended before it said HELLO."""
    text = stderr.decode(errors="replace")
    last = last_line(stderr) or f"exit status {returncode}"
    if "sudo:" in text or "is not in the sudoers file" in text:
        return NotRoot(
            f"{name}: docker-livemig cannot become root: {last}",
            hint="log in as root (ssh://root@host), or allow sudo without a password there",
        )
    if returncode == 255:
        return _diagnose_ssh(name, text, last)
    if re.search(_NO_PLUGIN, text):
        return NoPlugin(f"{name}: docker-livemig is not installed", hint=INSTALL_HINT)
    if returncode == 127 or re.search(r"docker: (command )?not found", text):
        return NoDocker(f"{name}: there is no docker command: {last}", hint="install Docker there")
    return HostError(
        f"{name}: the peer ended before it answered: {last}",
        hint=f"try `ssh {name} docker livemig version`",
    )


def _diagnose_ssh(name: str, text: str, last: str) -> LivemigError:
    if "Could not resolve hostname" in text:
        return HostUnknown(
            f"{name}: the name does not resolve: {last}",
            hint="HOST is a name that ssh knows, ssh://[user@]host[:port], or a docker context",
        )
    hint = f"`ssh -o BatchMode=yes {name} true` must work"
    if "Host key verification failed" in text:
        hint = "the host's key is not known, or has changed: connect once with ssh and check it"
    elif "Permission denied" in text:
        hint = "ssh must get in without a password: see ssh-copy-id"
    return HostUnreachable(f"{name}: ssh does not get through: {last}", hint=hint)


def _configured_context(config: Path | None) -> str:
    try:
        data = json.loads(((config or config_dir()) / "config.json").read_text())
        return str(data.get("currentContext", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _bracketed(host: str) -> str:
    """Return [user@]address as a URL has it: an address of IPv6 stands in brackets there."""
    user, at, address = host.rpartition("@")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return host
    return f"{user}{at}[{address}]"


def _split(url: str, name: str) -> tuple[SplitResult, int]:
    if not url.isprintable():  # urlsplit drops line feeds and tabs
        raise _bad_host(name, "it holds control characters")
    try:
        parts = urlsplit(url)
        return parts, parts.port or 0
    except ValueError as error:
        raise _bad_host(name, str(error)) from error


def _bad_host(name: str, why: str) -> UsageError:
    return UsageError(
        f"HOST {name!r} is not valid: {why}",
        hint="HOST is a name that ssh knows, ssh://[user@]host[:port], or a docker context",
    )
