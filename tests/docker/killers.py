"""Killing, in turn, all that takes part in a move, at a step where it was stopped."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

import psutil

from docker_livemig.journal import Journal
from docker_livemig.steps import TargetState
from tests import pace
from tests.docker import stopper
from tests.docker.commands import Command
from tests.docker.moves import PLUGIN, Pair, kill, processes
from tests.hosts import Host, restart
from tests.hosts.config import REPO

DAEMON = "/etc/docker/daemon.json"
LIMIT = pace.limit(90)
IMPATIENT = {"LIVEMIG_SSH": "-o ConnectTimeout=2"}  # where it is a dropped link that is waited for
RUNS_THERE = (TargetState.STARTED, TargetState.RUNNING)
PEER = ("-m", stopper.__name__, "peer")


@contextmanager
def stoppable(pair: Pair) -> Iterator[None]:
    """Have both hosts run the program that stops at steps, and Docker leave containers alone."""
    kept = [(host.path(PLUGIN), host.path(PLUGIN).read_text()) for host in pair]
    with engines(pair, live_restore=True):
        for (path, _), host in zip(kept, pair, strict=True):
            path.write_text(
                f"#!/bin/sh\nexport PYTHONPATH={REPO}\n"
                f'exec {host.config.python} -P -m {stopper.__name__} "$@"\n'
            )
        try:
            yield
        finally:
            for host, (_, text) in zip(pair, kept, strict=True):
                host.path(PLUGIN).write_text(text)  # a host that was restarted has another path


@contextmanager
def engines(pair: Pair, *, live_restore: bool) -> Iterator[None]:
    """Have a dockerd that starts again leave alone what the last one had started, or end it."""
    kept = [(host, host.path(DAEMON).read_text()) for host in pair]
    for host, text in kept:
        host.path(DAEMON).write_text(json.dumps(json.loads(text) | {"live-restore": live_restore}))
        host.reload_engine()
    try:
        yield
    finally:
        for host, text in kept:
            host.path(DAEMON).write_text(text)
            host.reload_engine()


class Stop:
    """A step at which a process of one host is to stop, and stops."""

    def __init__(self, pair: Pair, point: str) -> None:
        self.host = pair[0] if point.startswith(stopper.SOURCE) else pair[1]
        self._directory = self.host.path(stopper.DIRECTORY)
        self._directory.mkdir(exist_ok=True)
        for name in ("at", "go"):
            (self._directory / name).unlink(missing_ok=True)
            os.mkfifo(self._directory / name)
        self._at = os.open(self._directory / "at", os.O_RDONLY | os.O_NONBLOCK)
        # For reading too: so it can be opened, and what is written stays, whoever comes first.
        self._go = os.open(self._directory / "go", os.O_RDWR)
        (self._directory / "plan").write_text(point)

    def await_stop(self) -> None:
        """Return when a process has stopped there."""
        poller = select.poll()
        poller.register(self._at, select.POLLIN)
        assert poller.poll(LIMIT * 1000), "no process came to the step"
        assert os.read(self._at, 32)

    def release(self) -> None:
        """Let the process that has stopped go on; one that was killed does not mind."""
        os.write(self._go, b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Clear away what told the process to stop, which a host's end has done already.

        One that still stands there goes on: without this it would stand there for ever.
        """
        self.release()
        with suppress(OSError):
            for name in ("at", "go", "plan", "done"):
                (self._directory / name).unlink(missing_ok=True)
            self._directory.rmdir()
        os.close(self._at)
        os.close(self._go)


Mend = Callable[[], None]


def drop_packets(pair: Pair) -> Mend:
    """Have no packet pass between the hosts, and nobody told of it."""
    rules = [("INPUT", "-i"), ("OUTPUT", "-o")]

    def turn(action: str) -> None:
        for chain, direction in rules:
            pair[0].run(["iptables", "-w", action, chain, direction, "eth0", "-j", "DROP"])

    turn("-I")
    return lambda: turn("-D")


@dataclass(frozen=True)
class Scene:
    """A move that has stopped at a step: both hosts, source first, and the command."""

    pair: Pair
    command: Command

    def kill_peer(self, side: int) -> Mend:
        """Kill the peer of a host."""
        kill(processes(self.pair[side], *PEER))
        return lambda: None

    def kill_command(self) -> Mend:
        """Kill Docker's command and the plugin."""
        self.command.kill()
        return lambda: None

    def kill_engine(self, side: int) -> Mend:
        """Kill a host's dockerd."""
        self.pair[side].stop_engine(signal.SIGKILL)
        return self.pair[side].start_engine

    def restart_engine(self, side: int) -> Mend:
        """Kill a host's dockerd, and start another."""
        self.kill_engine(side)()
        return lambda: None

    def begin_engine(self, side: int) -> Mend:
        """Kill a host's dockerd, and begin to start another, which gets no further for now."""
        host, worker = self.pair[side], ThreadPoolExecutor(1)
        host.stop_engine(signal.SIGKILL)
        starting = worker.submit(host.start_engine)
        while (begun := _dockerd(host)) is None:
            assert not starting.done(), "no dockerd has started"
        begun.suspend()

        def go_on() -> None:
            begun.resume()
            starting.result(LIMIT)
            worker.shutdown()

        return go_on

    def restart_all(self, side: int) -> Mend:
        """Kill a host's peer, and restart its dockerd."""
        self.kill_peer(side)
        return self.restart_engine(side)

    def kill_host(self, side: int) -> Mend:
        """Cut a host's power."""
        self.pair[side].kill()
        return lambda: restart(self.pair[side])


def _dockerd(host: Host) -> psutil.Process | None:
    for each in processes(host):
        with suppress(psutil.Error):  # it has ended meanwhile
            if each.name() == "dockerd":
                return each
    return None


KILLERS: dict[str, Callable[[Scene], Mend]] = {
    "command": Scene.kill_command,
    "source's peer": lambda scene: scene.kill_peer(0),
    "target's peer": lambda scene: scene.kill_peer(1),
    "link": lambda scene: drop_packets(scene.pair),
    "source's engine": lambda scene: scene.kill_engine(0),
    "target's engine": lambda scene: scene.kill_engine(1),
    "source's host": lambda scene: scene.kill_host(0),
    "target's host": lambda scene: scene.kill_host(1),
}


# A host that is back says at once that it knows of no connection; the link's silence is waited for.
MENDED_AT_ONCE = ("source's host", "target's host")

# Where a dockerd that starts again ends its containers.
RESTARTERS: dict[str, Callable[[Scene], Mend]] = {
    "a restart of the source's engine": lambda scene: scene.restart_engine(0),
    "a restart of the target's engine": lambda scene: scene.restart_engine(1),
    "a begun restart of the target's engine": lambda scene: scene.begin_engine(1),
    "the source's peer and a restart of its engine": lambda scene: scene.restart_all(0),
}


def strike(pair: Pair, name: str, point: str, killer: str) -> bool:
    """Move a container, kill at the step, let the rest go on, and mend what was broken.

    Returns whether a copy was left that knew everything: a host takes its own along.
    """
    with (
        Stop(pair, point) as stop,
        Command(pair[0], name, pair[1].name, env=IMPATIENT, limit=2 * LIMIT) as command,
    ):
        stop.await_stop()
        left = copies_left(pair, name, killer)
        mend = (KILLERS | RESTARTERS)[killer](Scene(pair, command))
        try:
            stop.release()
            if killer not in MENDED_AT_ONCE:
                command.wait_until("resume")
        finally:
            mend()
        command.end()
    await_peers(pair)
    return left


def await_peers(pair: Pair) -> None:
    """Return when nothing of ours is at work on these hosts any more."""
    for host in pair:
        for peer in processes(host, *PEER):
            peer.wait(LIMIT)


def copies_left(pair: Pair, name: str, killer: str) -> bool:
    """Tell whether a copy with all that was typed outlives the killer."""
    source, target = pair
    words = ["docker", "ps", "-aq", "--filter", f"name={name}"]
    if killer == "source's host":
        complete = target_state(target) in (*RUNS_THERE, TargetState.READY)
        return complete or not source.run(words).stdout
    if killer == "target's host":
        return bool(source.run(words).stdout) and target_state(target) not in RUNS_THERE
    return True


def target_state(host: Host) -> str:
    """Return what the only journal of a host says, empty without one."""
    for path in host.path("/var/lib/livemig").glob("*/journal"):
        return Journal(path.parent.name, path.parent.parent).state
    return ""
