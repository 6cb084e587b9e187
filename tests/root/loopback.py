"""A move from one process to another in this one, by real frames over no link."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from livemig.errors import ProtocolError
from livemig.frames import FrameType, decode, decode_header, encode
from livemig.incoming import Incoming
from livemig.model import Clocks, Image, LayoutChoice, RoundStat, TrackerChoice, Typed
from livemig.outgoing import Outgoing
from livemig.pages import Batch
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.wire import from_wire, to_wire
from tests.root.apps import App

CACHE = 8 << 20
# What lays out the memory of every process that arrives in these tests: LIVEMIG_LAYOUT chooses.
LAYOUT = cast("LayoutChoice", os.environ.get("LIVEMIG_LAYOUT") or "auto")
CHUNK = 1 << 20


class Move:
    """Moves ``source`` into ``target``, which runs the hold program.

    ``between`` is called before each frame, ``before_kill`` when both sides are sealed,
    ``sync_files`` when the source is frozen, where the files of a container would follow it; it
    returns those that did,
    ``after_commit`` when what was typed has been taken, ``after_end`` when the source has ended.
    ``arriving`` changes what the target hears of the source's layout.
    """

    def __init__(
        self,
        source: App,
        target: App,
        *,
        live: bool = True,
        cache: int = CACHE,
        tracker: TrackerChoice = "auto",
        layout: LayoutChoice = LAYOUT,
    ) -> None:
        self.source, self.target = source, target
        self.between: Callable[[], object] = lambda: None
        self.before_kill: Callable[[], object] = lambda: None
        self.sync_files: Callable[[], Sequence[str]] = lambda: ()
        self.after_commit: Callable[[], object] = lambda: None
        self.after_end: Callable[[], object] = lambda: None
        self.arriving: Callable[[LayoutUpdate], LayoutUpdate] = lambda update: update
        self.rounds: list[RoundStat] = []
        self.closed = False
        self.outgoing = Outgoing(source.pid, source.cgroup.freezer, source.streams(), cache)
        self.incoming = Incoming(target.pid, target.cgroup.freezer, layout=layout)
        try:
            self.outgoing.start(live=live, tracker=tracker)
        except BaseException:
            self.close()
            raise

    def send(self, kind: FrameType, body: Any, payload: Any = b"") -> None:
        """Carry a frame over, as bytes."""
        self.between()
        data = b"".join(encode(kind, body, payload))
        frame = decode(decode_header(data), data)
        if frame.type is FrameType.LAYOUT:
            self.incoming.follow(self.arriving(from_wire(LayoutUpdate, frame.body)))
        elif frame.type is FrameType.PAGES:
            self.incoming.write(from_wire(Batch, frame.body), frame.payload)
        elif frame.type is FrameType.ROUND_END:
            self.incoming.end_round(from_wire(RoundEnd, frame.body))
        else:
            raise ProtocolError(f"unexpected {frame.type.name}")

    def round(self) -> RoundStat:
        """Send one round."""
        self.rounds.append(self.outgoing.round(self.send))
        return self.rounds[-1]

    def freeze(self) -> RoundStat:
        """Stop the source, and send the last round."""
        self.outgoing.freeze()
        self.outgoing.forget_files(self.sync_files())
        return self.round()

    def state(self, later: int = 0) -> Image:
        """Return all but the pages of the frozen source, its clocks ``later`` nanoseconds on."""
        image = self.outgoing.extract()
        data = b"".join(encode(FrameType.STATE, to_wire(image)))
        image = from_wire(Image, decode(decode_header(data), data).body)
        clocks = Clocks(image.clocks.monotonic + later, image.clocks.boottime + later)
        return replace(image, clocks=clocks)

    def switch(self, later: int = 0) -> App:
        """Go from the frozen source to the target, and return the latter, which runs."""
        image = self.state(later)
        sent = [(start, start + len(data)) for start, data in self.outgoing.contents(CHUNK)]
        stdin = self.outgoing.seal()
        self.incoming.rebuild(image, filters=0, sent=sent)
        self.incoming.seal(image)
        self.before_kill()
        if (typed := self.outgoing.typed()) is not None:
            self.incoming.put_typed(from_wire(Typed, to_wire(typed)))
        self.after_commit()
        self.outgoing.kill()
        self.source.wait()
        self.after_end()
        self.target.follow(self.source)
        self.source.pipes[0].close()
        if stdin is not None:
            for data in stdin.rest(1.0):
                assert self.incoming.feed(data) == 0
        self.incoming.thaw()
        assert self.incoming.feed(b"") == 0
        self.close()
        return self.target

    def run(self, rounds: int = 2, later: int = 0) -> App:
        """Go through the whole move."""
        for _ in range(rounds):
            self.round()
        self.freeze()
        return self.switch(later)

    def give_up(self) -> None:
        """Undo all: the source runs on, the target is gone."""
        self.outgoing.release()
        self.close()

    def close(self) -> None:
        """Close what both sides hold."""
        if not self.closed:
            self.closed = True
            self.incoming.close()
            self.outgoing.close()


class Mover(Protocol):
    """What the fixture ``move`` is."""

    def __call__(
        self,
        app: App,
        *,
        live: bool = True,
        cache: int = CACHE,
        tracker: TrackerChoice = "auto",
        layout: LayoutChoice = LAYOUT,
        held: Sequence[str | Path] = (),
    ) -> Move: ...
