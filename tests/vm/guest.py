"""A guest: a virtual machine under QEMU's own emulator, reached by ssh, ended by its pid."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import docker
from livemig.system import sched
from tests.hosts.proc import Mark, end, load_mark, mark_of

from .qmp import Monitor, VmError

BOOT_LIMIT = 900.0
RUN_LIMIT = 60.0
SAVE_LIMIT = 600.0
NICE = 10
"""Guests take what others leave of the processors."""
FROZEN = ("disk.qcow2", "memory")
COMMAND_LINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 tsc=reliable quiet"
ENGINE = "/run/docker.sock"
LONGEST = 90
"""Bytes that ssh(1) can do with for the name of its control socket: unix(7), less what it adds."""


@dataclass(frozen=True)
class Parts:
    """What a guest is made of; nothing of it is ever written to."""

    kernel: Path
    initrd: Path | None
    """None for a kernel that needs none to find its disk."""
    disk: Path
    """A raw disk, or a qcow2 with all that it stands on."""
    key: Path
    """The private key that root's account in it accepts."""
    memory: Path | None = None
    """The memory of a guest that was saved with this disk: it runs on instead of booting."""
    words: str = ""
    """What the kernel's command line says besides."""

    @classmethod
    def of(cls, base: Path, saved: Path | None = None) -> Parts:
        """Return what a directory of `disks` holds, and one of a guest that was saved."""
        disk, memory = (base / "disk.img", None) if saved is None else (saved / f for f in FROZEN)
        return cls(base / "vmlinuz", base / "initrd.img", disk, base / "key", memory)


@dataclass(frozen=True)
class Size:
    """How big a guest is; one that was saved must run on with the same."""

    cpus: int = 2
    memory: int = 4096
    """MiB"""
    model: str = "max"
    """What its processors can do, as QEMU's -cpu says it."""


@dataclass(frozen=True)
class Cable:
    """An end of a cable between two guests: datagrams, so that the other end may come and go."""

    end: Path
    far_end: Path
    mac: str


class Guest:
    """A guest with a directory of its own for its disk and its sockets."""

    def __init__(
        self, directory: Path, *, size: Size | None = None, cable: Cable | None = None
    ) -> None:
        self.dir = directory
        self.name = directory.name
        self.size = size or Size()
        self.cable = cable
        self._record = directory / "qemu.json"

    # Its life

    def start(self, parts: Parts, limit: float = BOOT_LIMIT) -> None:
        """Start it afresh, and return when root can log in; VmError says what it wrote last."""
        if len(bytes(self.dir / "control")) > LONGEST:
            raise VmError(
                f"{self.dir} is too long a name for a guest's sockets: LIVEMIG_VM_DIR names another"
            )
        self.remove()
        self.dir.mkdir(parents=True)
        shutil.copyfile(parts.key, self.dir / "key")
        (self.dir / "key").chmod(0o600)
        port = _free_port()
        (self.dir / "port").write_text(str(port))
        kind = "raw" if parts.disk.suffix == ".img" else "qcow2"
        disk = self.dir / "disk.qcow2"
        command("qemu-img", "create", "-q", "-f", "qcow2", "-b", parts.disk, "-F", kind, disk)
        deadline = time.monotonic() + limit
        self._launch(parts, port)
        try:
            if parts.memory:
                with Monitor(self.dir / "qmp") as monitor:
                    monitor.run_on(SAVE_LIMIT)
            self._await_login(deadline)
            if parts.memory:  # its clock stood still meanwhile
                self.run(["date", "-s", f"@{time.time():.3f}"])
        except BaseException:
            self.stop()
            raise

    def _launch(self, parts: Parts, port: int) -> None:
        # It leaves its parent once its sockets are there: nobody but PID 1 has to reap it.
        command(*self._arguments(parts, port), timeout=RUN_LIMIT)
        pid = int((self.dir / "pid").read_text())
        mark_of(pid).save(self._record)
        if sched.autogroup(pid) is not None:  # there nice(1) counts within a session only
            sched.set_autogroup(pid, NICE)

    def _arguments(self, parts: Parts, port: int) -> list[str]:
        incoming = f"exec:cat {shlex.quote(str(parts.memory))}"
        return [
            *("nice", "-n", str(NICE), "qemu-system-x86_64", "-name", self.name, "-nodefaults"),
            # Never KVM: it is not everywhere, and where it is a guest's faults are the machine's.
            *("-accel", "tcg,thread=multi,tb-size=512", "-cpu", f"{self.size.model},la57=off"),
            *("-smp", str(self.size.cpus), "-m", str(self.size.memory), "-display", "none"),
            *("-daemonize", "-pidfile", f"{self.dir}/pid", "-D", f"{self.dir}/qemu.log"),
            *("-serial", f"file:{self.dir}/console.log"),
            *("-qmp", f"unix:{self.dir}/qmp,server=on,wait=off"),
            *("-kernel", str(parts.kernel)),
            *(("-initrd", str(parts.initrd)) if parts.initrd else ()),
            *("-append", f"{COMMAND_LINE} {parts.words}"),
            *("-drive", f"file={self.dir}/disk.qcow2,if=virtio,format=qcow2,cache=unsafe"),
            *("-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-device", "virtio-net-pci,netdev=net0,romfile="),
            *self._plugged(),
            *("-device", "virtio-rng-pci"),
            *(("-incoming", incoming) if parts.memory else ()),
        ]

    def _plugged(self) -> list[str]:
        if self.cable is None:
            return []
        end, far_end = self.cable.end, self.cable.far_end
        # QEMU does not remove the socket of one whose power was cut.
        end.unlink(missing_ok=True)
        local, remote = (
            f"local.type=unix,local.path={end}",
            f"remote.type=unix,remote.path={far_end}",
        )
        return [
            *("-netdev", f"dgram,id=net1,{local},{remote}"),
            *("-device", f"virtio-net-pci,netdev=net1,mac={self.cable.mac},romfile="),
        ]

    def _await_login(self, deadline: float) -> None:
        while True:
            left = deadline - time.monotonic()
            if not self.alive():
                raise VmError(f"guest {self.name} ended: {self._last_words()}")
            if left <= 0:
                raise VmError(f"guest {self.name} lets nobody in: {self._last_words()}")
            done = subprocess.run(
                [*self._ssh("-M", "-N", "-f")],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=RUN_LIMIT,
            )
            if not done.returncode:
                return
            time.sleep(0.5)  # ssh(1) cannot wait for a server that does not listen yet

    def alive(self) -> bool:
        """Tell whether its QEMU runs."""
        return load_mark(self._record) is not None

    def stop(self) -> None:
        """Cut its power; what its directory holds stays."""
        self._disconnect()
        qemu: Mark | None = load_mark(self._record)
        if qemu is not None:
            end(qemu)

    def reset(self, limit: float = BOOT_LIMIT) -> None:
        """Take its power away for a moment, and return when root can log in again."""
        self._disconnect()
        with Monitor(self.dir / "qmp") as monitor:
            monitor.command("system_reset")
        self._await_login(time.monotonic() + limit)

    def _disconnect(self) -> None:
        (self.dir / "docker.sock").unlink(missing_ok=True)
        if (self.dir / "control").exists():
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [*self._ssh("-O", "exit")], check=False, capture_output=True, timeout=10
                )

    def remove(self) -> None:
        """End it, and forget its disk."""
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def save(self, directory: Path) -> None:
        """Stop it, and have its disk and its memory in a directory, for `Parts.of`."""
        self.run(["sync"])
        with Monitor(self.dir / "qmp") as monitor:
            memory = shlex.quote(str(directory / FROZEN[1]))
            monitor.save(f"exec:cat >{memory}", SAVE_LIMIT)
            monitor.command("quit")
        self.stop()
        # Not moved: what is in a cache shall be whole, and the two may be on different disks.
        command("cp", "--sparse=always", self.dir / "disk.qcow2", directory / FROZEN[0])

    # Reaching into it

    def run(
        self,
        argv: Sequence[str] | str,
        *,
        input: bytes | None = None,  # noqa: A002
        timeout: float = RUN_LIMIT,
        check: bool = True,
        show: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, or a shell script, as root; `show`: with our own standard streams.

        VmError where it takes longer than `timeout` s, or fails and `check` is set.
        """
        script = argv if isinstance(argv, str) else shlex.join(argv)
        # timeout(1), so that it ends in the guest too when ours is over.
        # SHLVL, so that no shell in it takes itself for a login by ssh and reads ~/.bashrc.
        words = shlex.join(
            ["env", "SHLVL=1", "timeout", "-k", "5", f"{timeout:.0f}", "sh", "-c", script]
        )
        try:
            done = subprocess.run(
                [*self._ssh(), words],
                check=False,
                input=b"" if input is None else input,
                capture_output=not show,
                timeout=timeout + 10,
            )
        except subprocess.TimeoutExpired:
            raise VmError(f"{self.name}: no end after {timeout:g} s: {script}") from None
        out, err = ((each or b"").decode(errors="replace") for each in (done.stdout, done.stderr))
        if check and done.returncode:
            raise VmError(f"{self.name}: {script}: status {done.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(script, done.returncode, out, err)

    def interact(self, argv: Sequence[str]) -> int:
        """Run a command in it with our own standard streams (none: a shell); return its status."""
        words = self._ssh("-t") if not argv else [*self._ssh(), shlex.join(argv)]
        return subprocess.run(words, check=False).returncode

    def write(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Write a file in it, with the directories that it lacks."""
        data = data.encode() if isinstance(data, str) else data
        where = shlex.quote(path)
        script = f"mkdir -p $(dirname {where}) && cat >{where} && chmod {mode:o} {where}"
        self.run(script, input=data)

    # Its Docker engine

    @property
    def socket(self) -> str:
        """Path on this machine that leads to its Docker socket, through ssh."""
        path = self.dir / "docker.sock"
        if not path.exists():
            command(*self._ssh("-O", "forward", "-L", f"{path}:{ENGINE}"), timeout=RUN_LIMIT)
        return str(path)

    def api(self, timeout: float = RUN_LIMIT) -> docker.APIClient:
        """Return a new connection to its engine."""
        return docker.APIClient(base_url=f"unix://{self.socket}", timeout=int(timeout))

    def _ssh(self, *options: str) -> list[str]:
        port = (self.dir / "port").read_text()
        settings = {
            "ControlPath": f"{self.dir}/control",
            "IdentityFile": f"{self.dir}/key",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            # It is on the loopback of this machine, and its key is as new as itself.
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ServerAliveInterval": "30",
            "ServerAliveCountMax": "10",
        }
        words = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", "-p", port, *words, *options, "root@127.0.0.1"]

    def _last_words(self) -> str:
        texts = []
        for name in ("qemu.log", "console.log"):
            with suppress(FileNotFoundError):
                texts.append((self.dir / name).read_text(errors="replace")[-1000:])
        return "\n".join(texts)


def command(*argv: str | Path, timeout: float = SAVE_LIMIT) -> str:
    """Run a command of this machine and return what it wrote; VmError where it failed."""
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise VmError(f"{argv[0]} failed: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
