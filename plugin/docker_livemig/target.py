"""The target's side of a move: a held container that becomes the one that arrives.

It follows the source's frames. What it made is on a stack that unwinds when the move breaks off
before READY; after READY only the source's word, COMMIT or ABORT, ends the wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import xxhash

from docker_livemig import containers, engine_api, hold, images, rootfs
from docker_livemig.bundle import seccomp_profile
from docker_livemig.journal import Journal
from docker_livemig.keeper import Keeper, relay
from docker_livemig.machine import check_vdso
from docker_livemig.messages import (
    Created,
    Finished,
    Prepare,
    Prepared,
    Ready,
    Resume,
    Running,
    State,
    Status,
    state_digest,
)
from docker_livemig.sweep import HELD, owner, sweep
from livemig.errors import (
    Cancelled,
    LinkLost,
    LivemigError,
    ProtocolError,
    StateMismatch,
    TransferError,
)
from livemig.frames import Frame, FrameType
from livemig.freezer import Freezer
from livemig.incoming import Incoming
from livemig.link import Link
from livemig.pages import Batch
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.system import priority
from livemig.wire import from_wire, to_wire

_COMING_BACK = 150.0  # seconds that a source which committed has to connect again
_LAST_WORDS = 5.0
_STEP = 600.0  # seconds between two frames of the source, heartbeats apart


def run(first: Frame, link: Link) -> None:
    """Take a container in; raises what stood in the way, with everything undone."""
    if first.type is FrameType.PREPARE:
        Arrival(from_wire(Prepare, first.body), link).run()
    elif first.type is FrameType.RESUME:
        relay(from_wire(Resume, first.body).move_id, link)
    else:
        raise ProtocolError(f"{link.name} began with {first.type.name}")


class Arrival:
    """One container's arrival, from PREPARE to FINISHED."""

    def __init__(self, prepare: Prepare, link: Link) -> None:
        self._prepare = prepare
        self._spec = prepare.container
        self._link = link
        self._journal = Journal(prepare.move_id)
        self._freezer: Freezer | None = None
        self._laid_out = False
        self._api = engine_api.connect()
        self._handlers: dict[FrameType, Callable[[Frame], None]] = {
            FrameType.IMAGE: self._image,
            FrameType.CREATE: self._create,
            FrameType.ROOTFS: self._rootfs,
            FrameType.LAYOUT: self._layout,
            FrameType.PAGES: self._pages,
            FrameType.ROUND_END: self._round_end,
            FrameType.FREEZE: lambda _: priority.foreground(),
        }

    def run(self) -> None:
        """Go through all phases; what was made is undone where one fails."""
        with ExitStack() as close:
            self._close = close
            try:
                with ExitStack() as undo:
                    self._undo = undo
                    self._accept()
                    self._state(self._follow())
                    self._await_commit()
            except Cancelled:
                self._link.send(FrameType.ABORTED)
                return
            self._start()
            self._finish()

    def _accept(self) -> None:
        sweep(self._api)
        check_vdso(self._prepare.source, self._prepare.vdso)
        images.check_platform(self._api, self._spec)
        containers.check_target(self._api, self._spec)
        images.check_tag(self._api, self._spec)
        self._send(FrameType.PREPARED, Prepared(tuple(images.present_chains(self._api))))

    def _follow(self) -> Frame:
        """Carry out what the source says until the STATE comes, and return that."""
        while (frame := self._link.receive(_STEP)).type is not FrameType.STATE:
            if frame.type is FrameType.ABORT:
                raise Cancelled("the source gave the move up")
            if (handler := self._handlers.get(frame.type)) is None:
                raise ProtocolError(f"{self._link.name} sent {frame.type.name} before STATE")
            handler(frame)
        return frame

    # One method a frame

    def _image(self, frame: Frame) -> None:
        body = frame.body if isinstance(frame.body, dict) else {}
        room = images.room_for(int(body.get("bytes", 0))) + self._prepare.file_bytes
        images.check_room(self._api, room)
        if images.has(self._api, self._spec):
            for _ in self._chunks(FrameType.IMAGE):
                pass
            loaded = images.adopt(self._api, self._spec)
        else:
            loaded = images.load(self._api, self._chunks(FrameType.IMAGE), self._spec)
        self._undo.callback(images.remove_loaded, self._api, loaded)
        self._link.send(FrameType.IMAGE_DONE)

    def _chunks(self, kind: FrameType) -> Iterator[bytes]:
        while data := self._link.expect(kind, timeout=_STEP).payload:
            yield bytes(data)

    def _create(self, _: Frame) -> None:
        self._id = containers.create(self._api, self._spec)
        self._undo.callback(self._remove)
        self._journal.append(HELD, container=self._id, name=self._spec.name, owner=owner())
        self._undo.callback(self._journal.remove)
        self._pid = containers.start_held(self._api, self._id, self._spec)
        if seccomp_profile(self._pid) != self._prepare.seccomp:
            raise StateMismatch(
                f"Docker on {os.uname().nodename} gives container {self._spec.name} another "
                f"seccomp profile than on {self._prepare.source}",
                hint="give both engines the same version, or the same default profile",
            )
        freezer = self._freezer = Freezer.of_process(self._pid)
        with engine_api.translating(f"pausing container {self._spec.name}"):
            self._api.pause(self._id)
        freezer.thaw()
        self._incoming = Incoming(self._pid, freezer)
        self._close.callback(self._incoming.close)
        self._undo.callback(self._incoming.close)
        self._send(FrameType.CREATED, Created(self._id, self._incoming.backend))

    def _remove(self) -> None:
        containers.remove(self._api, self._id, self._freezer.thaw if self._freezer else None)

    def _rootfs(self, frame: Frame) -> None:
        rootfs.apply(self._pid, self._with_first(frame))
        self._link.send(FrameType.ROOTFS_DONE)

    def _with_first(self, frame: Frame) -> Iterator[bytes]:
        if frame.payload:
            yield bytes(frame.payload)
            yield from self._chunks(FrameType.ROOTFS)

    def _layout(self, frame: Frame) -> None:
        if self._prepare.mode == "live" and not self._laid_out:
            self._laid_out = True
            priority.background()
        self._incoming.follow(from_wire(LayoutUpdate, frame.body))

    def _pages(self, frame: Frame) -> None:
        self._incoming.write(from_wire(Batch, frame.body), frame.payload)

    def _round_end(self, frame: Frame) -> None:
        self._incoming.end_round(from_wire(RoundEnd, frame.body))
        self._link.send(FrameType.ROUND_DONE)

    def _state(self, frame: Frame) -> None:
        state = from_wire(State, frame.body)
        for expected in state.digests:
            data = self._incoming.read(expected.start, expected.end - expected.start)
            if xxhash.xxh3_64_intdigest(data) != expected.digest:
                raise StateMismatch(
                    f"process {expected.pid}: the pages at {expected.start:#x} differ"
                )
        sent = [(each.start, each.end) for each in state.digests] or None
        filters = 1 if self._prepare.seccomp else 0
        self._incoming.rebuild(state.image, filters=filters, sent=sent)
        self._incoming.seal(state.image)
        self._journal.append("ready", container=self._id)
        self._keeper = Keeper(self._prepare.move_id)
        self._close.callback(self._keeper.close)
        self._send(FrameType.READY, Ready(state_digest(to_wire(state))))

    def _await_commit(self) -> None:
        """Wait for the source's word, however long it takes, on whatever connection it comes."""
        while True:
            try:
                self._link.expect(FrameType.COMMIT, timeout=None)
                break
            except TransferError:
                self._reconnect("ready", None)
        self._undo.pop_all()

    def _reconnect(self, state: str, timeout: float | None) -> None:
        name = self._link.name
        self._link.close()
        self._link = self._keeper.next_link(name, timeout)
        self._close.callback(self._link.close)
        with suppress(TransferError):
            self._send(FrameType.STATUS, Status(state, self._id))

    # After the point of no return

    def _start(self) -> None:
        self._incoming.thaw()
        with suppress(TransferError):
            self._send(FrameType.RUNNING, Running(self._id))
        self._journal.append("running", container=self._id)

    def _finish(self) -> None:
        notes: list[str] = []
        hold.running(self._id)
        self._api.unpause(self._id)
        hold.unmount(self._pid)
        containers.restore_policy(self._api, self._id, self._spec)
        notes += self._address_note()
        notes += self._await_finish()
        self._journal.remove()
        with suppress(LivemigError):
            self._send(FrameType.FINISHED, Finished(tuple(notes)))
            self._link.flush(_LAST_WORDS)

    def _await_finish(self) -> list[str]:
        """Take late standard input until the source is gone; return what there is to say of it."""
        notes: list[str] = []
        while True:
            try:
                frame = self._link.expect(FrameType.STDIN, FrameType.FINISH, timeout=_STEP)
            except TransferError:
                try:
                    self._reconnect("running", _COMING_BACK)
                except LinkLost as error:
                    return [*notes, error.message]
                continue
            if frame.type is FrameType.FINISH:
                return notes
            if lost := self._incoming.feed(bytes(frame.payload)):
                notes.append(f"{lost} bytes of late standard input found no room")

    def _address_note(self) -> list[str]:
        address = containers.address(self._api, self._id)
        if address == self._spec.address:
            return []
        return [f"the container's address changed from {self._spec.address} to {address}"]

    def _send(self, kind: FrameType, body: Any) -> None:
        self._link.send(kind, to_wire(body))
