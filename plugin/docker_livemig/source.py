"""The source's side of a move: it owns the migration.

Phases follow one another. What goes wrong before the commit is undone: the container runs on, and
the target is told. The line "committed" in the journal is the point of no return; from there on it
is a `Handover`. The target follows by frames; PROTOCOL.md tells their order.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import xxhash

from docker_livemig import containers, engine_api, far, health, images, lifecycle, restarts, rootfs
from docker_livemig.bundle import seccomp_profile
from docker_livemig.handover import Handover
from docker_livemig.journal import Journal
from docker_livemig.keptby import refuse_kept
from docker_livemig.lock import alone
from docker_livemig.machine import check_machine
from docker_livemig.meanwhile import Meanwhile
from docker_livemig.messages import (
    Created,
    ImageLayers,
    PageDigest,
    Prepare,
    Prepared,
    Ready,
    Running,
    State,
    state_digest,
)
from docker_livemig.pace import Pace
from docker_livemig.requests import MoveRequest, MoveSummary
from docker_livemig.resolve import Resolved, refuse, resolve
from docker_livemig.session import Session
from docker_livemig.steps import ANSWER, DISK_ANSWER, SourcePhase, SourceState
from docker_livemig.sweep import refuse_handed_over, sweep
from docker_livemig.version import VERSION
from docker_livemig.watch import ClientWatch
from livemig import vdso
from livemig.errors import (
    LivemigError,
    StateMismatch,
    TransferError,
    UsageError,
)
from livemig.frames import FrameType
from livemig.link import Link
from livemig.model import Image
from livemig.outgoing import Outgoing
from livemig.system import priority, procfs
from livemig.tracing import telling_death
from livemig.tracker import check_tracker
from livemig.wire import prepare, to_wire

_ABORT = 30.0
_VERIFY_CHUNK = 1 << 20


def run(request: MoveRequest, client: Link) -> None:
    """Carry out a move and tell ``client`` the summary; raises what stood in the way."""
    watch = ClientWatch(client, request.timeout_s)
    try:
        summary = Move(request, watch).run()
    finally:
        watch.end()
    client.send(FrameType.SUMMARY, to_wire(summary))


@dataclass
class Move:
    """One move, from the request to the summary."""

    request: MoveRequest
    watch: ClientWatch
    move_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    notes: list[str] = field(default_factory=list)
    downtime: float = 0.0
    layout: str = ""
    steps: dict[str, float] = field(default_factory=dict)
    _session: Session = field(init=False)
    _outgoing: Outgoing = field(init=False)
    _handover: Handover = field(init=False)
    _told: bool = False  # the target knows of the move
    _watching: bool = False  # the process has been looked at
    _freezing: bool = False  # the container has lost its restart policy, and more
    _held: bool = False  # the target may be ready

    def run(self) -> MoveSummary:
        """Go through all phases."""
        self._started = time.monotonic()
        self._api = engine_api.connect()
        self.notes += sweep(self._api)
        self._since = time.time_ns()
        self._spec = containers.describe(self._api, self.request.container)
        containers.refuse_uncarried(self._api, self._spec)
        if self.request.keep_source and self._spec.auto_remove:
            raise UsageError(
                f"--keep-source: Docker removes container {self._spec.name} when it ends (--rm)",
                hint="leave --keep-source out",
            )
        with alone(self._spec), ExitStack() as close:
            self._close = close
            refuse_handed_over(self._spec)
            self._meanwhile = Meanwhile(self._spec, self._since, self.watch.interrupt)
            close.callback(self._meanwhile.close)
            running = self._move()
        return self._summary(running) if running else self._prospect()

    def _move(self) -> Running | None:
        self._resolved = resolve(self._spec)
        refuse(self._spec, self._resolved)
        if self.request.mode == "live":
            check_tracker(self.request.tracker)
        self._journal = Journal(self.move_id)
        try:
            self._connect()
            prepared = self._prepare()
            if self.request.dry_run:
                self._take_back()
                return None
            self._send_image(prepared)
            self._create()
            self._send_memory()
            self._send_state(self._freeze())
            self._decide()
        except BaseException as error:
            reason = self._meanwhile.explain(error)
            self._undo(reason)
            if reason is error:
                raise
            raise reason from error
        running = self._commit()
        self._handover.finish(self._stdin)
        return running

    # Phases that can be undone

    def _connect(self) -> None:
        self.watch.enter(SourcePhase.CONNECT)
        self.watch.report("connect", f"connecting to {self.request.host}")
        self._session = Session(self.request, self.move_id)
        self._close.callback(self._session.close)
        check_machine(far.facts("source"), self._session.hello)
        self.watch.attach(self._session.link)

    def _prepare(self) -> Prepared:
        self.watch.enter(SourcePhase.PREPARE)
        self._manifest = rootfs.scan(self._spec.upper_dir)
        self._journal.begin(
            SourceState.BEGUN,
            spec=to_wire(self._spec),
            host=self.request.host,
            machine=self._session.hello.machine,
            request=to_wire(self.request),
            keep_source=self.request.keep_source,
            engine=engine_api.address(),
        )
        self.watch.move_id = self.move_id
        self._told = True
        self._session.send(
            FrameType.PREPARE,
            Prepare(
                move_id=self.move_id,
                source=os.uname().nodename,
                mode=self.request.mode,
                container=self._spec,
                file_bytes=self._manifest.size,
                vdso=vdso.own().code,
                seccomp=seccomp_profile(self._resolved.pid),
                layout=self.request.layout,
                machine=far.machine_id(),
            ),
        )
        prepared = self._session.expect(FrameType.PREPARED, Prepared)
        self._foreign = prepared.foreign
        return prepared

    def _send_image(self, prepared: Prepared) -> None:
        self.watch.enter(SourcePhase.IMAGE)
        missing = images.missing(self._spec, prepared.chains)
        size = images.required_bytes(self._api, self._spec, missing)
        self.watch.report("image", f"sending {len(missing)} missing image layers ({size} bytes)")
        self._session.send(FrameType.IMAGE, to_wire(ImageLayers(tuple(missing), size)))
        if not prepared.image:  # the engine reads all of an image, whatever we take of it
            with closing(engine_api.connect(engine_api.IMAGE_TIMEOUT)) as api:
                for chunk in images.export_missing(api, self._spec, missing):
                    self._session.send(FrameType.IMAGE, None, chunk)
        self._session.send(FrameType.IMAGE, None)
        self._session.confirm(FrameType.IMAGE_DONE, DISK_ANSWER)

    def _create(self) -> None:
        self.watch.enter(SourcePhase.CREATE)
        self.watch.report("create", f"creating the held container on {self.request.host}")
        self._session.send(FrameType.CREATE)
        prepare(Ready, Running)
        self._session.expect(FrameType.CREATED, Created)
        self.watch.enter(SourcePhase.FILES)
        self.watch.report("files", f"sending {self._manifest.size} bytes of changed files")
        changes = rootfs.everything(self._manifest)
        self._send_files(rootfs.pack(self._spec.upper_dir, changes, settle=True), DISK_ANSWER)

    def _send_files(self, chunks: Any, limit: float = ANSWER) -> None:
        for chunk in chunks:
            self._session.send(FrameType.ROOTFS, None, chunk)
        self._session.send(FrameType.ROOTFS, None)
        self._session.confirm(FrameType.ROOTFS_DONE, limit)

    def _send_memory(self) -> None:
        live = self.request.mode == "live"
        resolved: Resolved = self._resolved
        self._outgoing = Outgoing(
            resolved.pid,
            resolved.freezer,
            resolved.streams,
            self.request.cache_mib << 20,
            health.patience(self._spec),
            self._foreign,
        )
        self._close.callback(self._outgoing.close)
        self._watching = True
        self._pace = Pace(self.request, self.watch, self._session, self._outgoing, self.notes)
        self._outgoing.start(live=live, tracker=self.request.tracker)
        if live:
            priority.background(self._session.processes())
            self._pace.iterate()

    def _freeze(self) -> Image:
        self.watch.enter(SourcePhase.FREEZE)
        self.watch.report("freeze", "freezing the container")
        self._freezing = True
        self._journal.append(SourceState.FREEZING)
        self._meanwhile.freezing()
        lifecycle.set_policy_no(self._api, self._spec)
        priority.foreground(self._session.processes())
        self._session.send(FrameType.FREEZE)
        self._frozen_at = self._last_step = time.monotonic()
        self._outgoing.freeze()
        self._step("stop")
        self.watch.enter(SourcePhase.LAST_ROUND)
        manifest = rootfs.scan(self._spec.upper_dir, self._manifest)
        if changes := rootfs.changed(self._manifest, manifest):
            self._send_files(rootfs.pack(self._spec.upper_dir, changes))
            self._outgoing.forget_files(f"/{path}" for path in changes)
        self.notes += manifest.notes
        self._step("files")
        self._pace.send()
        self._step("last round")
        self._digests = self._digest_pages() if self.request.verify else ()
        image = self._outgoing.extract()  # while the target writes the pages
        self._step("extract")
        self._pace.confirm()
        self._step("last round")
        return image

    def _send_state(self, image: Image) -> None:
        self.watch.enter(SourcePhase.STATE)
        body = to_wire(State(image, self._digests))
        # Frozen for good before the target can be ready: so a death of ours lets nothing run on.
        self._stdin = self._outgoing.seal()
        self._meanwhile.sealed()
        self._step("seal")
        self._held = True
        self._session.send(FrameType.STATE, body)
        self.watch.enter(SourcePhase.REBUILD)
        with telling_death(self._resolved.pid):  # while the target rebuilds the process
            refuse_kept(self._spec, self._resolved.pid)
        digest = state_digest(body)
        ready = self._session.expect(FrameType.READY, Ready)
        there = self._session.hello
        if ready.state != digest:
            raise StateMismatch(
                f"{there.host} built another state of {self._spec.name} than was sent",
                hint=f"docker-livemig is {VERSION} here and {there.version} there: is it the same?",
            )
        self.layout = ready.layout
        if ready.passed_over:
            why = f"its mremap device was passed over: {ready.passed_over}"
            self.notes.append(f"{there.host}: {why}")
        self._step("rebuild")

    def _digest_pages(self) -> tuple[PageDigest, ...]:
        return tuple(
            PageDigest(1, start, start + len(data), xxhash.xxh3_64_intdigest(data))
            for start, data in self._outgoing.contents(_VERIFY_CHUNK)
        )

    # Undoing

    def _take_back(self) -> None:
        """End a move that was only to be asked for; the container has not noticed it."""
        self._session.abort(held=False, patience=_ABORT)
        self._journal.remove()

    def _undo(self, reason: BaseException) -> None:
        """Let the container run on, and have the target clean itself.

        What cannot be done now stays in the journal, and ``reason`` says so.
        """
        self.watch.detach()
        self._meanwhile.returned()
        problems = self._try(self._note_return)
        # Where it cannot be noted that it runs on here, no copy may be left that could be told to.
        first = bool(problems) and self._held
        if first and (left := self._try(self._abort)):
            problems += [*left, f"container {self._spec.name} stays frozen here until then"]
        else:
            problems += self._try(self._release, self._restore_policy)
        settled = not problems
        if not first:
            problems += self._try(self._abort)
        if not problems:
            self._try(self._journal.remove)
        elif settled and self._freezing:
            self._try(lambda: self._journal.append(SourceState.RETURNED, settled=True))
        if problems and isinstance(reason, LivemigError):
            reason.message += f"; {'; '.join(problems)}"
            reason.hint = f"`docker livemig recover {self.move_id}` does what is left to do"
        elif problems:
            self.watch.report("undo", "; ".join(problems))

    def _try(self, *actions: Callable[[], object]) -> list[str]:
        problems = []
        for action in actions:
            try:
                action()
            except (LivemigError, OSError) as error:
                problems.append(str(error))
            except Exception as error:  # noqa: BLE001 - the next step is to be done all the same
                problems.append(f"{type(error).__name__}: {error}")
        return problems

    def _note_return(self) -> None:
        if self._freezing:
            self._journal.append(SourceState.RETURNED)

    def _release(self) -> None:
        if self._watching:
            self._outgoing.release(frozen=self._meanwhile.paused)

    def _restore_policy(self) -> None:
        if self._freezing:
            lifecycle.restore_policy(self._api, self._spec.id, self._spec)
            if not self._meanwhile.told_to_end:
                restarts.start_again(self._api, self._spec.id, self._spec, self._since / 1e9)

    def _abort(self) -> None:
        if not self._told:
            return
        try:
            self._session.abort(held=self._held, patience=_ABORT)
        except LivemigError as error:
            message = f"{self.request.host} may still hold the copy: {error.message}"
            self.watch.report("abort", message)
            raise TransferError(message) from error

    # The point of no return, and what comes after it

    def _decide(self) -> None:
        self._handover = Handover(
            self._api,
            self._spec,
            self.request.host,
            self._journal,
            self.watch,
            self._meanwhile,
            self._session,
            self._outgoing,
            self.notes,
        )
        self._handover.decide()
        self._step("commit")

    def _commit(self) -> Running:
        try:
            running = self._handover.commit()
        except LivemigError as error:
            if self._handover.lost:
                self._undo(error)
            raise
        self._step("switch")
        self.downtime = (time.monotonic() - self._frozen_at) * 1000
        return running

    # Details

    def _step(self, name: str) -> None:
        now = time.monotonic()
        self.steps[name] = self.steps.get(name, 0.0) + (now - self._last_step) * 1000
        self._last_step = now

    def _prospect(self) -> MoveSummary:
        return MoveSummary(
            container=self._spec.name,
            container_id="",
            source=os.uname().nodename,
            target=self._session.hello.host,
            mode=self.request.mode,
            notes=[*self.notes, "nothing stands in its way that either host knows of"],
        )

    def _summary(self, running: Running) -> MoveSummary:
        return MoveSummary(
            container=self._spec.name,
            container_id=running.container_id,
            source=os.uname().nodename,
            target=self._session.hello.host,
            mode=self.request.mode,
            tracker=self._outgoing.tracker.name,
            layout=self.layout,
            rounds=self._pace.done,
            downtime_ms=self.downtime,
            total_ms=(time.monotonic() - self._started) * 1000,
            sent_bytes=self._session.bytes_sent,
            steps=self.steps,
            source_kib=int(procfs.read_status(os.getpid())["VmHWM"].split()[0]),
            notes=self.notes,
        )
