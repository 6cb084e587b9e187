"""A run of the stub ends, by name where need be."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest

from livemig.errors import InternalError
from livemig.stub import Stub
from livemig.system import ptrace
from livemig.tracing import Stop


class Restless:
    """A thread that stops again whenever it is let go."""

    tid = pid = 1

    def wait(self, _: float | None = None) -> Stop:
        return Stop(signal.SIGTRAP, ptrace.EVENT_STOP)

    def read(self, _: int, length: int) -> bytes:
        return bytes(length)


@pytest.mark.timeout(10)
def test_stops_without_end_do_not_let_a_run_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cont", "interrupt"):
        monkeypatch.setattr(ptrace, name, lambda *_: None)
    thread = cast("Any", Restless())
    stub = Stub(thread, thread, 1 << 20)
    stub.limit = 0.05
    with pytest.raises(InternalError, match="process 1: the end of a table did not end"):
        stub.finish()
