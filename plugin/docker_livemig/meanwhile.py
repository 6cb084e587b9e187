"""What Docker does to the source's container while it is being moved.

A thread follows the engine's events. What cannot be squared with the move breaks it off: the
container does then, where it was, what it was told. After the commit it cannot be broken off any
more; then it is remembered who was told to end, and the other host is asked to end it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from docker_livemig import containers, engine_api, health, lifecycle
from docker_livemig.containers import ContainerSpec
from docker_livemig.dockerd import Engine
from docker_livemig.events import CAME_BACK, Events, stop_signal
from docker_livemig.messages import Finish
from livemig.errors import (
    LivemigError,
    NotCarried,
    NotRunning,
    Paused,
    ProcessGone,
    StateMismatch,
)

_LATE = 3.0  # seconds that the engine has to tell of an end that the kernel told already
_RESTART = 3.0  # seconds between the end of a container and its start by `docker restart`
_AGAIN = "move it again when that is done"


class Meanwhile:
    """Hears of everything that Docker does to one container, up to ``close``.

    What happened from ``since`` (ns since the epoch) on is heard too, so that nothing is missed
    between a look at the container and this. NoDocker where the engine does not answer.

    ``interrupt`` is called with the error that breaks the move off, once, from a thread. ``paused``
    tells whether Docker holds the container for paused, ``told_to_end`` whether it was stopped,
    killed, restarted or removed by force, ``restarted`` whether it was started again after the
    commit (what came up is killed).
    """

    def __init__(
        self, spec: ContainerSpec, since: int, interrupt: Callable[[LivemigError], None]
    ) -> None:
        self._spec = spec
        self._interrupt = interrupt
        self._changed = threading.Condition()
        self._problem: LivemigError | None = None
        self._frozen = self._sealed = self._committed = self._ended = self._removed = False
        self.paused = False
        self.told_to_end = False
        self.restarted = False
        self.notes: list[str] = []
        self._actions: dict[str, Callable[[dict[str, str]], LivemigError | None]] = {
            "pause": self._on_pause,
            "unpause": self._on_unpause,
            "kill": self._on_kill,
            "oom": lambda _: ProcessGone(f"{self._name} ran out of memory while it was moved"),
            "die": self._on_die,
            "start": self._on_start,
            "update": self._on_update,
            "destroy": self._on_destroy,
            CAME_BACK: self._on_return,
            "rename": self._on_rename,
            "exec_start": self._on_exec,
            "extract-to-dir": self._on_copy,
            "connect": self._on_network,
            "disconnect": self._on_network,
        }
        self._api = engine_api.connect()
        self._engine = Engine()
        self._events = Events(self._api, spec.id, since, self._hear, self._over)

    @property
    def _name(self) -> str:
        return f"container {self._spec.name}"

    def freezing(self) -> None:
        """Say that files and memory are read for the last time; raises what stands in the way."""
        with self._changed:
            self._frozen = True
            if self._problem is not None:
                raise self._problem

    def sealed(self) -> None:
        """Say that nothing can come into the container any more: the runtime sees it frozen."""
        self._sealed = True

    def committed(self) -> None:
        """Say that the container has left: nothing breaks the move off from here on.

        Raises what stands in the way, and has interrupted nobody yet.
        """
        with self._changed:
            if self._problem is not None:
                raise self._problem
            self._committed = True

    def returned(self) -> None:
        """Say that it runs here after all: the copy on the other host was lost before it ran."""
        with self._changed:
            self._committed = False

    def explain(self, reason: BaseException) -> BaseException:
        """Return why a move broke off: Docker's doing, where it was that, else ``reason``.

        Waits a little where the process is gone, and the engine has not told why yet.
        """
        if not isinstance(reason, LivemigError | OSError):
            return reason
        with self._changed:
            if isinstance(reason, ProcessGone | FileNotFoundError | ProcessLookupError):
                self._changed.wait_for(lambda: self._problem is not None or self._ended, _LATE)
            return self._problem or reason

    def await_end(self) -> None:
        """Wait until Docker has told of the container's end, and so of all that came before."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, _LATE)

    def await_restart(self) -> None:
        """Wait until a container that was told to end, and has, may have been started again.

        `docker restart` does that; once its end is seen to by us, Docker starts none.
        """
        with self._changed:
            if self.told_to_end:
                self._changed.wait_for(lambda: self.restarted or self._removed, _RESTART)

    def last_word(self) -> Finish:
        """Return what the other host has to be told, where Docker's word came too late here."""
        return Finish(stop=self.told_to_end and not self.restarted, restart=self.restarted)

    def tell_stopped(self, host: str, doubts: Sequence[str] = ()) -> None:
        """Raise NotRunning where the container was moved to ``host`` and has been stopped there.

        ``doubts`` say why that is not sure.
        """
        if self.restarted:
            self.notes.append(
                f"{self._name} was restarted by Docker when it had left; it was "
                f"{'to be ' * bool(doubts)}restarted on {host}"
            )
        elif self.told_to_end:
            stopped = f"was to be stopped there: {'; '.join(doubts)}" if doubts else "stopped there"
            raise NotRunning(
                f"{self._name} was told to end by Docker (stop, kill, rm) while it was being "
                f"moved; it was moved to {host}, and {stopped}"
            )

    def close(self) -> None:
        """Stop listening."""
        self._events.close()

    # Each event

    def _hear(self, action: str, attributes: dict[str, str]) -> None:
        handler = self._actions.get(action)
        problem = handler(attributes) if handler else None
        if problem is not None:
            self._disturb(problem)

    def _over(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _disturb(self, problem: LivemigError) -> None:
        with self._changed:
            first = self._problem is None and not self._committed
            if first:
                self._problem = problem
            self._changed.notify_all()
        if first:
            self._interrupt(problem)

    # One method an action (docker events)

    def _on_pause(self, _: dict[str, str]) -> LivemigError:
        self.paused = True
        if self._committed:
            self._late("was paused by Docker")
        return Paused(
            f"{self._name} was paused while it was being moved",
            hint=f"`docker unpause {self._spec.name}`, and move it again (`docker commit` pauses "
            "it for a moment too)",
        )

    def _on_unpause(self, _: dict[str, str]) -> None:
        self.paused = False

    def _on_kill(self, attributes: dict[str, str]) -> LivemigError | None:
        number = int(attributes.get("signal") or 0)
        if number not in (signal.SIGKILL, stop_signal(self._spec)):
            return self._on_signal(number)
        if self._engine.ends():
            return None  # a dockerd that ends stops its containers, which nobody has asked for
        self.told_to_end = True
        return NotRunning(
            f"{self._name} was told to end by Docker (stop, restart, kill, rm) while it was being "
            "moved; the move was broken off"
        )

    def _on_signal(self, number: int) -> LivemigError | None:
        """Any other signal: the process has it, and takes it along unless it was read already."""
        if not self._frozen:
            return None
        if self._committed:
            self._late(f"got signal {number} by Docker")
        return StateMismatch(
            f"{self._name} got signal {number} by Docker while it was frozen to be moved",
            hint=_AGAIN,
        )

    def _on_die(self, attributes: dict[str, str]) -> LivemigError:
        with self._changed:
            self._ended = self._committed
        code = attributes.get("exitCode", "?")
        return ProcessGone(f"{self._name} ended (exit code {code}) while it was being moved")

    def _on_start(self, _: dict[str, str]) -> None:
        """It would be the second copy: `docker restart` does not ask anybody."""
        if self._committed:
            with self._changed:
                self.restarted = True
                self._changed.notify_all()
            with suppress(LivemigError):
                lifecycle.kill(self._api, self._spec.id)

    def _on_destroy(self, _: dict[str, str]) -> None:
        with self._changed:
            self._removed = True
            self._changed.notify_all()

    def _on_update(self, _: dict[str, str]) -> LivemigError | None:
        """Ours, of the restart policy, is one of them; so what it is now is what counts."""
        found = self._api.inspect_container(self._spec.id)["HostConfig"]
        policies = [self._spec.restart_policy, containers.NO_POLICY] if self._frozen else []
        wanted = {**self._spec.host_config}
        if found.get("RestartPolicy") in policies:
            wanted["RestartPolicy"] = found.get("RestartPolicy")
        changed = sorted(name for name in wanted if wanted[name] != found.get(name))
        if not changed:
            return None
        if self._committed:
            self._late(f"was changed by `docker update` ({', '.join(changed)})")
        return NotCarried(
            f"{self._name} was changed by `docker update` ({', '.join(changed)}) while it was "
            "being moved",
            hint=_AGAIN,
        )

    def _on_return(self, attributes: dict[str, str]) -> LivemigError | None:
        self._engine = Engine()
        return self._on_update(attributes)

    def _on_rename(self, attributes: dict[str, str]) -> LivemigError | None:
        name = attributes.get("name", "")
        if self._committed:
            return None  # the copy that is left behind may be kept, under a name of its own
        return NotCarried(
            f"{self._name} was renamed to {name} while it was being moved",
            hint=_AGAIN,
        )

    def _on_exec(self, attributes: dict[str, str]) -> LivemigError | None:
        if not self._frozen or self._sealed:
            return None  # the freeze looks for processes that came in; later none can
        if (probe := health.command(self._spec)) and attributes.get("") == probe:
            return None  # given up, or going on, with the copy that it looks at
        return NotCarried(
            f"`docker exec` came into {self._name} while it was frozen to be moved", hint=_AGAIN
        )

    def _on_copy(self, _: dict[str, str]) -> LivemigError | None:
        if not self._frozen:
            return None  # the frozen container's files are looked at once more
        if self._committed:
            self._late("got files by `docker cp`")
        return StateMismatch(
            f"`docker cp` wrote into {self._name} after its files had been read", hint=_AGAIN
        )

    def _on_network(self, _: dict[str, str]) -> LivemigError:
        return NotCarried(
            f"the networks of {self._name} were changed while it was being moved", hint=_AGAIN
        )

    def _late(self, what: str) -> None:
        self.notes.append(f"the copy on the source {what} when the container had left already")
