"""Calling Python functions in one of the hosts, with the code that the test has loaded."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from livemig.system.handles import set_namespace
from tests.hosts import Host

P = ParamSpec("P")
T = TypeVar("T")
NAMESPACES = ("pid", "net", "uts", "ipc", "mnt")


def inside(host: Host, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``function`` returns in a child in the host's namespaces, or raise its error."""
    handles = [os.open(f"/proc/{host.pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for handle in handles:
                set_namespace(handle, 0)
            # Only a child is in the PID namespace.
            if (inner := os.fork()) == 0:
                os.environ.pop("DOCKER_HOST", None)
                _answer(writing, function, *args, **kwargs)
            os.waitpid(inner, 0)
        finally:
            os._exit(0)
    for handle in (*handles, writing):
        os.close(handle)
    with os.fdopen(reading, "rb") as results:
        answer = results.read()
    os.waitpid(child, 0)
    assert answer, f"the child in {host.name} died"
    ok, result = pickle.loads(answer)
    if not ok:
        raise result
    return result  # type: ignore[no-any-return]


def _answer(writing: int, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        answer = pickle.dumps((True, function(*args, **kwargs)))
    except BaseException as error:  # noqa: BLE001 - goes to the parent
        answer = pickle.dumps((False, error))
    with os.fdopen(writing, "wb") as file:
        file.write(answer)
    os._exit(0)
