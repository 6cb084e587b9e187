"""What a Docker engine says happens to one container, as it happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from docker.errors import DockerException

import docker
from docker_livemig import engine_api
from docker_livemig.containers import ContainerSpec
from livemig.errors import NoDocker

_BILLION = 1_000_000_000
_PAUSE = 0.02  # seconds between two tries: what Docker is told next is to be heard

# Docker's names (moby/sys/signal), whatever the C library has taken for itself.
_FIRST, _LAST = 34, 64
_REAL_TIME = {
    "RTMIN": _FIRST,
    "RTMAX": _LAST,
    **{f"RTMIN+{each}": _FIRST + each for each in range(1, 16)},
    **{f"RTMAX-{each}": _LAST - each for each in range(1, 15)},
}

CAME_BACK = ""
"""No action of Docker's: the engine was away, and nobody tells what was done by then."""

Hear = Callable[[str, dict[str, str]], None]


class Events:
    """Follows the events of one container of this host, in a thread, up to ``close``.

    ``hear`` gets each action (the first word of it, as `docker events` has it) and its attributes,
    those of networks too (connect, disconnect), with the rest of the action under an empty name.
    What happened from ``since`` on (ns since the epoch) is heard too; what was before, the engine
    leaves out.

    An engine that ends and comes back is listened to again. Of a container that it does not leave
    alone (live-restore) it says "kill" before it hears anybody, as it does of one that somebody
    ends: so only what comes after its return is heard, and CAME_BACK before it.

    ``over`` is called when nothing is heard any more. NoDocker where the engine does not answer at
    first. ``api`` is a connection that only the thread uses, and ``close`` closes.
    """

    def __init__(
        self,
        api: docker.APIClient,
        container: str,
        since: int,
        hear: Hear,
        over: Callable[[], None],
    ) -> None:
        self._api = api
        self._container = container
        self._hear = hear
        self._over = over
        self._closed = threading.Event()
        self._begin(since)
        threading.Thread(target=self._listen, name="docker events", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        self._end_stream()
        self._api.close()

    def _begin(self, since: int) -> None:
        with engine_api.translating("listening to Docker", NoDocker):
            self._stream = self._api.events(
                since=f"{since // _BILLION}.{since % _BILLION:09d}",
                filters={"type": ["container", "network"]},
                decode=True,
            )

    def _end_stream(self) -> None:
        with suppress(OSError, AttributeError, DockerException):
            self._stream.close()

    def _listen(self) -> None:
        try:
            self._follow()
            while self._begin_again():
                self._tell(CAME_BACK, {})
                self._follow()
        finally:
            self._over()

    def _follow(self) -> None:
        for event in self._said():
            self._sort(event)

    def _said(self) -> Iterator[dict[str, Any]]:
        # What closing the stream under it raises depends on where the thread reads.
        with suppress(OSError, ValueError, AttributeError, *engine_api.FAILURES):
            yield from self._stream

    def _tell(self, action: str, attributes: dict[str, str]) -> None:
        # Who looks at the container of an engine that ends meanwhile looks again when it is back.
        with suppress(*engine_api.FAILURES):
            self._hear(action, attributes)

    def _begin_again(self) -> bool:
        """Return once the engine answers again and is listened to; False when we are closed."""
        while not self._closed.wait(_PAUSE):
            with suppress(NoDocker):
                with engine_api.translating("waiting for Docker", NoDocker):
                    self._api.ping()
                self._begin(time.time_ns())
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
            self._tell(action, {**attributes, "": rest})


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
