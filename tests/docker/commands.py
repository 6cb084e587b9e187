"""A `docker livemig` that runs while a test does something else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

import psutil

from docker_livemig.exits import EXIT_CODES
from livemig.errors import LivemigError
from tests import pace
from tests.hosts import Host

LIMIT = pace.limit(60)


class Command:
    """A `docker livemig` that runs, and whose progress can be waited for."""

    def __init__(
        self, host: Host, *words: str, env: dict[str, str] | None = None, limit: float = LIMIT
    ) -> None:
        argv = ["setsid", "docker", "livemig", "--progress", "json", *words]
        self._process = host.popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._limit = limit
        self._watch = threading.Timer(limit, self._end_programs)
        self.said: list[dict[str, Any]] = []

    def __enter__(self) -> Command:
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._end_programs()
        self._process.communicate()
        self._watch.cancel()
        self._watch.join()

    def wait_for(self, phase: str, number: int = 0) -> None:
        """Return once it has reported the phase, or in it the round."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(json.loads(line))
            progress = self.said[-1].get("progress", {})
            if progress.get("phase") == phase and progress["round"] >= number:
                return
        raise AssertionError(f"it ended before {phase} {number or ''}: {self.said}")

    def wait_until(self, phase: str) -> None:
        """Return once it has reported the phase, or has ended."""
        with suppress(AssertionError):
            self.wait_for(phase)

    def interrupt(self) -> None:
        """Press Ctrl-C: the whole foreground group of the terminal hears it."""
        os.killpg(self._process.inside(), signal.SIGINT)

    def kill(self) -> None:
        """Kill Docker's command and the plugin, so that neither can say a word."""
        assert self._end_programs() > 1

    def _end_programs(self) -> int:
        docker = psutil.Process(self._process.inside())
        plugins = [each for each in docker.children() if "livemig" in each.cmdline()]
        for each in (docker, *plugins):
            each.kill()
        return 1 + len(plugins)

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait for the end; return the exit code and what was said last."""
        out, err = self._process.communicate(timeout=self._limit)
        self.said += [json.loads(line) for line in err.splitlines()]
        assert out == "" or self._process.returncode == 0
        return self._process.returncode, self.said

    def must_fail(self, error: type[LivemigError]) -> str:
        """Wait for the end with this error, and return its message."""
        code, said = self.end()
        assert "error" in said[-1], said
        assert (said[-1]["error"]["code"], code) == (error.code, EXIT_CODES[error]), said[-1]
        message: str = said[-1]["error"]["message"]
        return message
