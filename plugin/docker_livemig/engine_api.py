"""The connection to this host's Docker engine, and its errors in our words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound

import docker
from livemig.errors import (
    CreateFailed,
    DiskFull,
    LivemigError,
    NameTaken,
    NoDocker,
    NoSuchContainer,
    RuntimeMissing,
)

RUNTIME = "livemig-runc"
"""Name under which the OCI runtime is registered with Docker."""

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
TIMEOUT = 60
"""Seconds until a silent engine counts as gone."""
IMAGE_TIMEOUT = 540
"""The same while it saves or loads an image: it writes all of it to its disk before it says a word.
Less than the other side waits for us meanwhile."""

_NO_RUNTIME = re.compile(rf"(unknown|invalid).* runtime.*{RUNTIME}", re.IGNORECASE)
_NAME_IN_USE = re.compile(r'container name "/?([^"]+)" is already in use', re.IGNORECASE)
_PORT_IN_USE = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)


FAILURES = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError)
"""What docker-py raises: it lets through what the connection below it does while it reads."""


def address() -> str:
    """Return where the engine of this host listens.

    DOCKER_HOST is followed when it names a Unix socket, and only then: the container's processes
    must be on this machine.
    """
    named = os.environ.get("DOCKER_HOST", "")
    return named if named.startswith("unix://") else DEFAULT_SOCKET


class _Impatient(docker.APIClient):  # type: ignore[misc]
    """Holds to its time limit where an answer is a stream, too."""

    def _disable_socket_timeout(self, socket: object) -> None:
        """Leave the limit as it is; docker-py takes it away once a stream has begun."""

    def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Have one for events that end, too, where docker-py asks for none."""
        if (kwargs.get("params") or {}).get("until"):
            kwargs["timeout"] = self.timeout
        return super()._set_request_timeout(kwargs)  # type: ignore[no-any-return]


def connect(timeout: int = TIMEOUT) -> docker.APIClient:
    """Return a connection to the engine of this host; NoDocker when none answers."""
    try:
        return _Impatient(base_url=address(), version="auto", timeout=timeout)
    except FAILURES as error:
        raise NoDocker(
            f"no Docker engine answers at {address()} on {os.uname().nodename}: {_reason(error)}",
            hint="install Docker Engine there, or start it with `systemctl start docker`",
        ) from error


@contextmanager
def connected(to: str) -> Iterator[docker.APIClient]:
    """Have the engine at ``to`` (empty: as it is) for this host's in the scope, and yield it."""
    kept = os.environ.get("DOCKER_HOST")
    if to:
        os.environ["DOCKER_HOST"] = to
    try:
        yield connect()
    finally:
        if kept is not None:
            os.environ["DOCKER_HOST"] = kept
        elif to:
            del os.environ["DOCKER_HOST"]


@contextmanager
def translating(
    doing: str, default: type[LivemigError] = CreateFailed, *, name: str = ""
) -> Iterator[None]:
    """Turn Docker's errors inside the block into ours; ``doing`` begins the message."""
    try:
        yield
    except FAILURES as error:
        raise translate(error, doing, default, name=name) from error


def translate(
    error: Exception, doing: str, default: type[LivemigError] = CreateFailed, *, name: str = ""
) -> LivemigError:
    """Return our error for one of docker-py or of the connection below it.

    ``doing`` says what was tried, ``name`` is the container's, ``default`` the class for what has
    none of its own.
    """
    reason = _reason(error)
    if isinstance(error, NotFound) and "no such container" in reason.lower():
        return NoSuchContainer(
            f"no such container: {name}" if name else reason,
            hint="`docker ps` lists the running ones",
        )
    if not isinstance(error, APIError):
        return NoDocker(
            f"{doing}: Docker on {os.uname().nodename} does not answer: {reason}",
            hint="see `systemctl status docker` there",
        )
    return translate_reason(reason, doing, default)


def translate_reason(
    reason: str, doing: str, default: type[LivemigError] = CreateFailed
) -> LivemigError:
    """Return our error for a message of the engine."""
    host = os.uname().nodename
    if "no space left on device" in reason.lower() or "disk quota exceeded" in reason.lower():
        return DiskFull(
            f"{doing} on {host}: {reason}", hint=f"make room on {host}: `docker system df`"
        )
    if _NO_RUNTIME.search(reason):
        return runtime_missing()
    if taken := _NAME_IN_USE.search(reason):
        return name_taken(taken[1])
    if _PORT_IN_USE.search(reason):
        return default(
            f"{doing}: a published port is in use on {host}: {reason}",
            hint="free the port on that host",
        )
    return default(f"{doing}: {reason}")


def this_host(name: str) -> NameTaken:
    """Return the error for a container that is to move to where it is."""
    return NameTaken(
        f"container {name} is on {os.uname().nodename} already: HOST is this very host",
        hint="name another one",
    )


def name_taken(name: str) -> NameTaken:
    """Return the error for a name that another container has on this host."""
    return NameTaken(
        f"{os.uname().nodename} has a container named {name!r} already",
        hint=f"rename or remove it there: `docker rename {name} NEW-NAME`",
    )


def runtime_missing() -> RuntimeMissing:
    """Return the error for a host whose Docker does not know the runtime."""
    host = os.uname().nodename
    return RuntimeMissing(
        f"the OCI runtime {RUNTIME} is not registered with Docker on {host}",
        hint=f"run `docker livemig setup` on {host}",
    )


def require_runtime(api: docker.APIClient) -> None:
    """Raise RuntimeMissing unless this host's Docker knows the runtime."""
    with translating("asking Docker for its runtimes", NoDocker):
        if RUNTIME not in api.info().get("Runtimes", {}):
            raise runtime_missing()


def _reason(error: Exception) -> str:
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation).strip()
    cause = _innermost(error)
    return (getattr(cause, "strerror", None) or str(cause)).strip()


def _innermost(error: BaseException) -> BaseException:
    # requests and urllib3 wrap what the system said three deep, each repeating the last.
    for inner in (*error.args, error.__cause__, error.__context__):
        if isinstance(inner, BaseException):
            return _innermost(inner)
    return error


def timed_out(error: Exception) -> bool:
    """Tell whether the engine did not answer in time; docker-py has several ways to say so."""
    return isinstance(_innermost(error), TimeoutError | urllib3.exceptions.ReadTimeoutError)
