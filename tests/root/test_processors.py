"""A process goes on on a processor that has more registers than the one that it comes from."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from livemig.errors import MachineMismatch
from livemig.model import Image
from livemig.system import xsave
from tests.root.apps import App
from tests.root.conftest import Start
from tests.root.loopback import Move, Mover

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

X87, SSE, AVX = 1, 2, 4
SMALL = X87 | SSE | AVX
SMALL_SIZE = 832  # the legacy area, the header and the upper halves of 16 registers


def saved_by_a_smaller_cpu(state: bytes, features: int = SMALL) -> bytes:
    """Return a state as a CPU with nothing but AVX would have saved it."""
    data = bytearray(state[:SMALL_SIZE])
    in_use = int.from_bytes(data[512:520], "little")
    struct.pack_into("=Q", data, 464, features)
    struct.pack_into("=Q", data, 512, in_use & SMALL)
    return bytes(data)


def from_a_cpu(moving: Move, monkeypatch: pytest.MonkeyPatch, features: int = SMALL) -> None:
    """Have the thread's state come from a CPU that has these ``features``, and no more."""
    extract = moving.outgoing.extract

    def extract_there() -> Image:
        image = extract()
        (process,) = image.processes
        (thread,) = process.threads
        other = replace(thread, xstate=saved_by_a_smaller_cpu(thread.xstate, features))
        return replace(image, processes=(replace(process, threads=(other,)),))

    monkeypatch.setattr(moving.outgoing, "extract", extract_there)


@pytest.fixture
def holding(start: Start, programs: Path) -> App:
    """Start a program that waits with something in its registers of AVX."""
    app = start(programs / "state", "vectors")
    if app.answer() == "lacks" or [each.number for each in xsave.components()] == [2]:
        pytest.skip("this CPU has no AVX, or nothing beyond")
    assert app.ask("finish") == "held"
    app.settle()
    return app


def test_registers_arrive_on_a_cpu_that_has_more(
    holding: App, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = move(holding)
    from_a_cpu(moving, monkeypatch)
    app = moving.run()
    app.send(b"x")
    assert app.answer() == "ok"


def test_registers_arrive_on_the_same_cpu(holding: App, move: Mover) -> None:
    app = move(holding).run()
    app.send(b"x")
    assert app.answer() == "ok"


def test_a_cpu_that_lacks_a_component_is_refused(
    holding: App, move: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = move(holding)
    from_a_cpu(moving, monkeypatch, SMALL | 1 << 60)
    moving.freeze()
    with pytest.raises(MachineMismatch, match="no registers of XSAVE's component 60, which"):
        moving.switch()
    moving.give_up()
    holding.send(b"x")
    assert holding.answer() == "ok"
