"""What a Docker engine says happens to one container, as it happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
from docker.errors import DockerException

from docker_livemig import engine_api
from docker_livemig.containers import ContainerSpec
from livemig.errors import NoDocker

_BILLION = 1_000_000_000
_PATIENCE = 60.0  # seconds that an engine has to come back
_PAUSE = 0.1  # seconds between two tries: it may come back as another socket, or late

# Docker's names (moby/sys/signal), whatever the C library has taken for itself.
_FIRST, _LAST = 34, 64
_REAL_TIME = {
    "RTMIN": _FIRST,
    "RTMAX": _LAST,
    **{f"RTMIN+{each}": _FIRST + each for each in range(1, 16)},
    **{f"RTMAX-{each}": _LAST - each for each in range(1, 15)},
}

Hear = Callable[[str, dict[str, str]], None]


class Events:
    """Follows the events of one container of this host, in a thread, up to ``close``.

    ``hear`` gets each action (the first word of it, as `docker events` has it) and its attributes,
    those of networks too (connect, disconnect), with the rest of the action under an empty name.
    What happened from ``since`` on (ns since the epoch) is heard too; what was before, the engine
    leaves out. An engine that ends and comes back, as with live-restore, is listened to again;
    ``over`` is called when it stays away, or we were closed. NoDocker where it does not answer now.
    ``api`` is a connection that only the thread uses.
    """

    def __init__(self, container: str, since: int, hear: Hear, over: Callable[[], None]) -> None:
        self._container = container
        self._since = since
        self._hear = hear
        self._over = over
        self._closed = threading.Event()
        self.api = engine_api.connect()
        self._begin()
        threading.Thread(target=self._listen, name="docker events", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        self._end_stream()
        self.api.close()

    def _begin(self) -> None:
        with engine_api.translating("listening to Docker", NoDocker):
            self._stream = self.api.events(
                since=f"{self._since // _BILLION}.{self._since % _BILLION:09d}",
                filters={"type": ["container", "network"]},
                decode=True,
            )

    def _end_stream(self) -> None:
        with suppress(OSError, AttributeError, DockerException):
            self._stream.close()

    def _listen(self) -> None:
        try:
            listening = True
            while listening:
                self._follow()
                listening = self._begin_again()
        finally:
            self._over()

    def _follow(self) -> None:
        # What closing the stream under it raises depends on where the thread reads.
        with suppress(OSError, ValueError, AttributeError, requests.RequestException):
            for event in self._stream:
                self._since = int(event.get("timeNano") or self._since - 1) + 1
                self._sort(event)

    def _begin_again(self) -> bool:
        """Tell whether the engine says more: of what happened while nobody heard it, too."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and not self._closed.wait(_PAUSE):
            with suppress(NoDocker):
                self._begin()
                if self._closed.is_set():  # it may have closed the one before
                    self._end_stream()
                return True
        return False

    def _sort(self, event: dict[str, Any]) -> None:
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        of_network = event.get("Type") == "network"
        if self._container == (attributes.get("container") if of_network else actor.get("ID")):
            action, _, rest = str(event.get("Action", "")).partition(": ")
            self._hear(action, {**attributes, "": rest})


def stop_signal(spec: ContainerSpec) -> int:
    """Return the signal that `docker stop` sends to a container first."""
    word = str(spec.config.get("StopSignal") or "TERM").upper().removeprefix("SIG")
    if word.isdigit():
        return int(word)
    return _REAL_TIME.get(word) or _numbered(word) or int(signal.SIGTERM)


def _numbered(word: str) -> int | None:
    with suppress(KeyError):
        return int(signal.Signals[f"SIG{word}"])
    return None
