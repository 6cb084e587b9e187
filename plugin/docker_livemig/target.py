"""The target's side of a move up to READY: a held container that becomes the one that arrives.

It follows the source's frames. What it made is written down before, and undone when the move breaks
off before READY, by this peer or by the next one (sweep). From READY on it is a `Standing`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import xxhash

from docker_livemig import copies, engine_api, images, making, rootfs
from docker_livemig.bundle import seccomp_profile
from docker_livemig.heldwatch import HeldWatch
from docker_livemig.journal import Journal
from docker_livemig.layerapply import Writing
from docker_livemig.machine import has_foreign_vdso
from docker_livemig.messages import (
    Commit,
    Created,
    ImageLayers,
    Prepare,
    Prepared,
    Ready,
    Resume,
    State,
    state_digest,
)
from docker_livemig.standing import Standing, take_over
from docker_livemig.steps import TargetPhase, TargetState, reach
from docker_livemig.sweep import sweep
from livemig.errors import Cancelled, LivemigError, ProtocolError, StateMismatch, TransferError
from livemig.frames import Frame, FrameType
from livemig.freezer import Freezer
from livemig.incoming import Incoming
from livemig.inject import check_layout
from livemig.link import Link
from livemig.pages import Batch
from livemig.rounds import LayoutUpdate, RoundEnd
from livemig.system import priority
from livemig.wire import from_wire, prepare, to_wire

_STEP = 600.0  # seconds between two frames of the source, heartbeats apart


def run(first: Frame, link: Link) -> None:
    """Take a container in; raises what stood in the way, with everything undone."""
    if first.type is FrameType.PREPARE:
        Arrival(from_wire(Prepare, first.body), link).run()
    elif first.type is FrameType.RESUME:
        take_over(engine_api.connect(), Journal(from_wire(Resume, first.body).move_id), link)
    else:
        raise ProtocolError(f"{link.name} began with {first.type.name}")


class Arrival:
    """One container's arrival, from PREPARE to FINISHED."""

    def __init__(self, prepare: Prepare, link: Link) -> None:
        self._prepare = prepare
        self._spec = prepare.container
        self._link = link
        self._journal = Journal(prepare.move_id)
        self._begun = False
        self._has_image = False
        self._laid_out = False
        self._frozen = False
        self._writing: list[Writing] = []
        self._incoming: Incoming | None = None
        self._held_watch: HeldWatch | None = None
        self._api = engine_api.connect()
        self._handlers: dict[FrameType, Callable[[Frame], None]] = {
            FrameType.IMAGE: self._image,
            FrameType.CREATE: self._create,
            FrameType.ROOTFS: self._rootfs,
            FrameType.LAYOUT: self._layout,
            FrameType.PAGES: self._pages,
            FrameType.ROUND_END: self._round_end,
            FrameType.FREEZE: self._freeze,
        }

    def run(self) -> None:
        """Go through all phases; what was made is undone where one fails before READY."""
        with ExitStack() as close:
            self._close = close
            try:
                self._accept()
                standing = self._state(self._follow())
            except Cancelled:
                self._clean_up()
                self._link.send(FrameType.ABORTED)
                return
            except LivemigError as reason:
                self._clean_up(reason)
                raise
            except BaseException:
                self._clean_up()
                raise
            standing.go_on()

    def _accept(self) -> None:
        reach(TargetPhase.ACCEPT)
        sweep(self._api)
        foreign = has_foreign_vdso(self._prepare.vdso)
        images.check_platform(self._api, self._spec)
        making.check_target(self._api, self._spec)
        images.check_tag(self._api, self._spec)
        check_layout(self._prepare.layout)
        self._journal.begin(
            TargetState.ACCEPTED,
            spec=to_wire(self._spec),
            source=self._prepare.source,
            machine=self._prepare.machine,
            engine=engine_api.address(),
            address=os.environ.get("SSH_CONNECTION", "").partition(" ")[0],
        )
        self._begun = True
        chains = tuple(images.present_chains(self._api))
        self._has_image = images.has(self._api, self._spec)
        self._send(FrameType.PREPARED, Prepared(chains, foreign, self._has_image))

    def _clean_up(self, reason: LivemigError | None = None) -> None:
        """Undo everything. What cannot be undone now stays in the journal, and ``reason`` says so.

        Without a reason that raises what stands in the way.
        """
        self._end_watch()
        try:
            if self._incoming is not None:
                self._incoming.close()
            if self._begun:
                copies.discard(self._api, self._journal)
                self._journal.remove()
        except (LivemigError, OSError) as error:
            if reason is None:
                raise
            reason.message += f"; {os.uname().nodename} could not clean up yet: {error}"

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
        reach(TargetPhase.IMAGE)
        coming = from_wire(ImageLayers, frame.body)
        room = images.room_for(coming.bytes) + self._prepare.file_bytes
        images.check_room(self._api, room)
        loaded = images.expected(self._api, self._spec)
        if loaded.new and self._has_image:
            raise TransferError(
                f"the image of {self._spec.name} was removed from {os.uname().nodename} meanwhile",
                hint="move it again: the image is sent then",
            )
        self._journal.append(TargetState.LOADING, loaded=to_wire(loaded))
        if loaded.new:
            with closing(engine_api.connect(engine_api.IMAGE_TIMEOUT)) as api:
                images.load(api, self._chunks(FrameType.IMAGE), self._spec)
        else:
            for _ in self._chunks(FrameType.IMAGE):
                pass
            images.adopt(self._api, self._spec)
        self._link.send(FrameType.IMAGE_DONE)

    def _chunks(self, kind: FrameType) -> Iterator[bytes]:
        while data := self._link.expect(kind, timeout=_STEP).payload:
            yield bytes(data)

    def _create(self, _: Frame) -> None:
        reach(TargetPhase.CREATE)
        self._journal.append(TargetState.CREATING)
        self._id = making.create(self._api, self._spec)
        self._journal.append(TargetState.HELD, container=self._id)
        self._pid = making.start_held(self._api, self._id, self._spec)
        self._held_watch = HeldWatch(self._id, self._spec, self._link.interrupt)
        self._close.callback(self._held_watch.close)
        if seccomp_profile(self._pid) != self._prepare.seccomp:
            raise StateMismatch(
                f"Docker on {os.uname().nodename} gives container {self._spec.name} another "
                f"seccomp profile than on {self._prepare.source}",
                hint="give both engines the same version, or the same default profile",
            )
        self._freezer = Freezer.of_process(self._pid)
        with engine_api.translating(f"pausing container {self._spec.name}"):
            self._api.pause(self._id)
        self._freezer.thaw()
        self._incoming = Incoming(self._pid, self._freezer, layout=self._prepare.layout)
        self._close.callback(self._incoming.close)
        self._send(FrameType.CREATED, Created(self._id))
        prepare(LayoutUpdate, Batch, RoundEnd, State, Commit)
        reach(TargetPhase.FOLLOW)

    def _rootfs(self, frame: Frame) -> None:
        if self._frozen:
            self._writing.append(rootfs.apply_frozen(self._pid, self._with_first(frame)))
            self._close.callback(self._writing[-1].close)
        else:
            rootfs.apply(self._pid, self._with_first(frame))
        self._link.send(FrameType.ROOTFS_DONE)

    def _with_first(self, frame: Frame) -> Iterator[bytes]:
        if frame.payload:
            yield bytes(frame.payload)
            yield from self._chunks(FrameType.ROOTFS)

    def _freeze(self, _: Frame) -> None:
        self._frozen = True
        priority.foreground()

    def _layout(self, frame: Frame) -> None:
        if self._prepare.mode == "live" and not self._laid_out:
            self._laid_out = True
            priority.background()
        self._arriving().follow(from_wire(LayoutUpdate, frame.body))

    def _pages(self, frame: Frame) -> None:
        self._arriving().write(from_wire(Batch, frame.body), frame.payload)

    def _round_end(self, frame: Frame) -> None:
        end = from_wire(RoundEnd, frame.body)
        self._arriving().end_round(end)
        if not end.more:
            self._link.send(FrameType.ROUND_DONE)

    def _state(self, frame: Frame) -> Standing:
        reach(TargetPhase.REBUILD)
        incoming = self._arriving()
        state = from_wire(State, frame.body)
        for expected in state.digests:
            data = incoming.read(expected.start, expected.end - expected.start)
            if xxhash.xxh3_64_intdigest(data) != expected.digest:
                raise StateMismatch(
                    f"process {expected.pid}: the pages at {expected.start:#x} differ"
                )
        sent = [(each.start, each.end) for each in state.digests] or None
        for process in state.image.processes:
            making.refuse_more_rights(self._id, self._spec, process.credentials)
        filters = 1 if self._prepare.seccomp else 0
        incoming.rebuild(state.image, filters=filters, sent=sent)
        incoming.seal(state.image)
        for each in self._writing:
            each.finish()
        self._end_watch()
        self._journal.append(TargetState.READY, stdin=incoming.stdin_inode)
        standing = Standing(
            self._api,
            self._journal,
            self._link,
            container=self._id,
            freezer=self._freezer,
            put=incoming.feed,
            put_typed=incoming.put_typed,
        )
        with suppress(TransferError):  # it stands ready, whether the source hears of it or not
            digest = state_digest(to_wire(state))
            self._send(FrameType.READY, Ready(digest, incoming.backend, incoming.passed_over))
        return standing

    def _end_watch(self) -> None:
        if self._held_watch is not None:
            self._held_watch.end()

    def _arriving(self) -> Incoming:
        if self._incoming is None:
            raise ProtocolError(f"{self._link.name} sent a process before CREATE")
        return self._incoming

    def _send(self, kind: FrameType, body: Any) -> None:
        self._link.send(kind, to_wire(body))
