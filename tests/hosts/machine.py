"""One host: starting it, running commands in it, its Docker engine, and its end."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psutil

import docker
from tests import pace

from .cgroups import kill_frozen, remove_cgroups
from .config import REPO, HostConfig
from .proc import HostsError, Mark, Readiness, end, load_mark, mark_of, outer_pid

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "TERM": "xterm",
}
START_LIMIT = pace.limit(60)


class HostProcess(subprocess.Popen[Any]):
    """A command in a host. nsenter(1) stands between: signals go to what runs inside."""

    def inside(self) -> int:
        """PID, seen from the machine, of the command itself."""
        children = psutil.Process(self.pid).children()
        if not children:
            raise HostsError(f"{self.args!r} has ended")
        return int(children[0].pid)

    def send_signal(self, sig: int) -> None:
        """Signal the command itself, if it still runs."""
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, HostsError):
            os.kill(self.inside(), sig)


class Host:
    """A Docker host on this machine; `start` and `kill` may be called again and again."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        self.name = config.name
        self.address = config.address
        self.dir = config.dir

    def __repr__(self) -> str:
        return f"<host {self.name}>"

    # Life of the host

    def start(self) -> None:
        """Make the namespaces and their PID 1; the link and the daemons come after."""
        (self.dir / "log").mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        try:
            self._start_init(writing)
            os.close(writing)
            writing = -1
            if not select.select([reading], [], [], START_LIMIT)[0]:
                raise HostsError(f"host {self.name} did not start in {START_LIMIT:g} s")
            if os.read(reading, 16) != b"ready\n":
                raise HostsError(f"host {self.name} did not start: {self.log('init')}")
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    def _start_init(self, ready: int) -> None:
        # setsid --fork: nobody but PID 1 of the machine has to reap it.
        with self._open_log("init") as log:
            subprocess.run(
                [
                    *("setsid", "--fork", "unshare", "--mount", "--uts", "--ipc", "--net"),
                    *("--pid", "--fork", "--kill-child", "--propagation", "private"),
                    *(sys.executable, "-m", "tests.hosts.init"),
                    *(str(self.config.save()), str(ready)),
                ],
                cwd=REPO,
                env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready,),
                check=True,
                timeout=START_LIMIT,
            )

    @property
    def init(self) -> Mark | None:
        """PID 1 of the host, as the machine sees it, while it runs."""
        return load_mark(self.config.record)

    @property
    def pid(self) -> int:
        """PID of its PID 1 on the machine; HostsError when it is down."""
        init = self.init
        if init is None:
            raise HostsError(f"host {self.name} is down")
        return init.pid

    def kill(self) -> None:
        """Cut its power: every process in it ends, what was written to disk stays."""
        init = self.init
        kill_frozen(self.config.cgroup)
        if init is not None:
            end(init)
        for record in ("dockerd", "sshd"):
            (self.dir / f"{record}.json").unlink(missing_ok=True)
        remove_cgroups(self.config.cgroup)

    # Its daemons

    def start_sshd(self) -> None:
        """Start sshd and wait until it listens."""
        self._serve("sshd", ["/usr/sbin/sshd", "-D", "-e"])

    def start_engine(self, timeout: float = START_LIMIT) -> None:
        """Start dockerd and wait until its API answers."""
        dockerd = shutil.which("dockerd", path=ENVIRONMENT["PATH"])
        if dockerd is None:
            raise HostsError("dockerd is not installed: make deps")
        # What the last one left in /run would make it believe that one still runs.
        self.path("/run/docker.pid").unlink(missing_ok=True)
        self._serve("dockerd", [dockerd], timeout)
        link = self.dir / "docker.sock"
        link.unlink(missing_ok=True)
        link.symlink_to(self.path("/run/docker.sock"))

    def engine(self) -> Mark | None:
        """Its dockerd, while it runs."""
        return load_mark(self.dir / "dockerd.json")

    def stop_engine(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 60.0) -> None:
        """End dockerd: SIGTERM stops its containers first, SIGKILL leaves them running."""
        engine = self.engine()
        if engine is not None:
            end(engine, sig, timeout)

    def reload_engine(self) -> None:
        """Have dockerd read its configuration again (SIGHUP)."""
        engine = self.engine()
        if engine is None:
            raise HostsError(f"no engine runs in {self.name}")
        os.kill(engine.pid, signal.SIGHUP)

    def _serve(self, name: str, argv: list[str], timeout: float = START_LIMIT) -> None:
        readiness = Readiness(self.path(f"/run/{name}.notify"))
        try:
            with self._open_log(name) as log:
                started = self.run(
                    ["sh", "-c", 'setsid "$@" 1>&2 & echo $!', "sh", *argv],
                    env={"NOTIFY_SOCKET": f"/run/{name}.notify"},
                    stderr=log,
                )
            daemon = mark_of(self.outer_pid(int(started.stdout)))
            daemon.save(self.dir / f"{name}.json")
            readiness.wait(daemon, timeout)
        except TimeoutError:
            raise HostsError(
                f"{name} in {self.name} not ready in {timeout:g} s: {self.log(name)}"
            ) from None
        except EOFError:
            raise HostsError(f"{name} in {self.name} gave up: {self.log(name)}") from None
        finally:
            readiness.close()

    def _open_log(self, name: str) -> IO[bytes]:
        return (self.dir / "log" / f"{name}.log").open("ab")

    def log(self, name: str, lines: int = 15) -> str:
        """Return the end of a log: init, dockerd or sshd."""
        path = self.dir / "log" / f"{name}.log"
        if not path.exists():
            return "(no log)"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    # Reaching into it

    def outer_pid(self, inner: int) -> int:
        """Translate a PID that the host or its engine names into the machine's PID."""
        return outer_pid(self.pid, self.config.cgroup, inner)

    @property
    def socket(self) -> str:
        """Path of its Docker socket that processes of the machine can connect to."""
        return str(self.path("/run/docker.sock"))

    def path(self, inside: str | Path) -> Path:
        """Return the path by which the machine reaches a file of the host."""
        return Path(f"/proc/{self.pid}/root") / str(inside).lstrip("/")

    def api(self, timeout: float = 60.0) -> docker.APIClient:
        """Return a new connection to its engine."""
        return docker.APIClient(base_url=f"unix://{self.socket}", timeout=int(pace.limit(timeout)))

    def _enter(self, argv: Sequence[str], env: dict[str, str] | None) -> list[str]:
        words = [f"{key}={value}" for key, value in {**ENVIRONMENT, **(env or {})}.items()]
        return [
            *("nsenter", "--target", str(self.pid)),
            *("--mount", "--uts", "--ipc", "--net", "--pid", "--"),
            *("env", "-i", *words, "setpriv", "--pdeathsig", "KILL", "--"),
            *argv,
        ]

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> HostProcess:
        """Start a command in the host, with an environment of its own; it dies with its caller."""
        return HostProcess(self._enter(argv, env), **kwargs)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002
        timeout: float = 60.0,
        check: bool = True,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host and return what it wrote; HostsError shows it if it failed."""
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        source = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(argv, env=env, stdin=source, text=True, **kwargs) as process:
            try:
                out, err = process.communicate(input, pace.limit(timeout))
            except subprocess.TimeoutExpired:
                while process.poll() is None:
                    process.kill()  # in vain where it has not begun yet
                    time.sleep(0.02)
                out, err = process.communicate()
                raise HostsError(
                    f"{self.name}: {' '.join(argv)}: no end after {timeout:g} s\n{out}{err}"
                ) from None
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(list(argv), process.returncode, out, err)
        if check and done.returncode:
            raise HostsError(
                f"{self.name}: {' '.join(argv)}: exit code {done.returncode}\n{out}{err}"
            )
        return done
