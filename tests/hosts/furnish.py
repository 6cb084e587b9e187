"""The files of a host, written from inside it: names, keys, Docker's configuration, the plugin."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from .config import HostConfig

SSHD_CONFIG = """\
ListenAddress {address}
HostKey /etc/ssh/host_ed25519
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
MaxSessions 100
AuthorizedKeysFile /etc/ssh/authorized_keys
Subsystem sftp internal-sftp
"""

SSH_CONFIG = """\
Host *
    IdentityFile /root/.ssh/id_ed25519
    ConnectTimeout 10
"""

LAUNCHER = """\
#!/bin/sh
exec {python} -I -m docker_livemig.main "$@"
"""

PLUGIN_PLACES = ("/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins")


@dataclass(frozen=True)
class Keys:
    """What ssh needs, made outside; all are texts of key files."""

    host: str
    user: str
    host_public: str
    peer_host_public: str
    users_public: str


def furnish(config: HostConfig, keys: Keys, *, first: bool) -> None:
    """Write everything; what a user may change in Docker's files only the `first` time."""
    socket.sethostname(config.name)
    _names(config)
    for habit in (".bashrc", ".profile", ".bash_profile"):
        Path("/root", habit).unlink(missing_ok=True)
    _ssh(config, keys)
    if first:
        _docker(config)
        _plugin(config)


def _names(config: HostConfig) -> None:
    Path("/etc/hostname").write_text(f"{config.name}\n")
    Path("/etc/hosts").write_text(
        "127.0.0.1 localhost\n::1 localhost\n"
        f"{config.address} {config.name}\n{config.peer_address} {config.peer}\n"
    )


def _ssh(config: HostConfig, keys: Keys) -> None:
    _fresh(Path("/root/.ssh"), 0o700)
    _secret(Path("/root/.ssh/id_ed25519"), keys.user)
    Path("/root/.ssh/known_hosts").write_text(
        f"{config.peer},{config.peer_address} {keys.peer_host_public}"
        f"{config.name},{config.address} {keys.host_public}"
    )
    etc = Path("/etc/ssh")
    _fresh(etc, 0o755)
    _secret(etc / "host_ed25519", keys.host)
    (etc / "authorized_keys").write_text(keys.users_public)
    (etc / "ssh_config").write_text(SSH_CONFIG)
    (etc / "sshd_config").write_text(SSHD_CONFIG.format(address=config.address))
    Path("/run/sshd").mkdir(mode=0o755)
    _unlock_root()


def _secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _unlock_root() -> None:
    """Without PAM, sshd turns away users whose password is locked with an exclamation mark."""
    shadow = Path("/etc/shadow")
    lines = shadow.read_text().splitlines()
    fixed = [line.replace(":!", ":*", 1) if line.startswith("root:!") else line for line in lines]
    if fixed != lines:
        shadow.write_text("\n".join(fixed) + "\n")


def _docker(config: HostConfig) -> None:
    _fresh(Path("/root/.docker"), 0o700)
    _fresh(Path("/etc/docker"), 0o755)
    options = {
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{config.cgroup}",
    }
    Path("/etc/docker/daemon.json").write_text(json.dumps(options, indent=4) + "\n")


def _plugin(config: HostConfig) -> None:
    """Install a launcher that runs the plugin out of the repository, or see that there is none."""
    for place in PLUGIN_PLACES:
        Path(place, "docker-livemig").unlink(missing_ok=True)
    if not config.plugin:
        return
    launcher = Path(PLUGIN_PLACES[0], "docker-livemig")
    launcher.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_text(LAUNCHER.format(python=config.python))
    launcher.chmod(0o755)


def _fresh(path: Path, mode: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=mode, parents=True)
