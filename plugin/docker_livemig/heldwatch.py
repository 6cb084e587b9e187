"""What Docker does on the target to a container that is held for a process to move in."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from docker_livemig import engine_api
from docker_livemig.containers import ContainerSpec
from docker_livemig.events import Events, stop_signal
from livemig.errors import LivemigError, TargetError


class HeldWatch:
    """Calls ``interrupt``, once and from a thread, when Docker ends, changes or renames it.

    That is up to ``end``, before the container is complete: then it is its source that decides.
    """

    def __init__(
        self, container: str, spec: ContainerSpec, interrupt: Callable[[LivemigError], None]
    ) -> None:
        self._spec = spec
        self._interrupt = interrupt
        self._told = False
        api = engine_api.connect()
        self._events = Events(api, container, time.time_ns(), self._hear, lambda: None)

    def end(self) -> None:
        """Interrupt nothing any more: the container is complete. Costs no time."""
        self._told = True

    def close(self) -> None:
        """Stop listening."""
        self.end()
        self._events.close()

    def _hear(self, action: str, attributes: dict[str, str]) -> None:
        what = {
            "kill": f"was told to end there by Docker (signal {attributes.get('signal')})",
            "die": "ended there",
            "destroy": "was removed there",
            "update": "was changed there by `docker update`",
            "rename": f"was renamed there to {attributes.get('name')}",
            "connect": "got another network there",
        }.get(action)
        ends = (str(int(signal.SIGKILL)), str(stop_signal(self._spec)))
        if action == "kill" and attributes.get("signal") not in ends:
            return
        if what is None or self._told:
            return
        self._told = True
        self._interrupt(
            TargetError(
                f"container {self._spec.name}, held on {os.uname().nodename} for this move, {what}",
                hint="leave it alone until it has arrived, and move it again",
            )
        )
