"""The source's side of a move: it owns the migration.

Phases follow one another; each that changed something leaves its undoing on a stack, which unwinds
when a later one fails. ``_commit`` is the point of no return: it empties the stack. The target
follows by frames; PROTOCOL.md tells their order.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash

from docker_livemig import containers, engine_api, far, images, rootfs
from docker_livemig.bundle import seccomp_profile
from docker_livemig.journal import Journal
from docker_livemig.machine import check_machine, vdso_digest
from docker_livemig.messages import (
    Created,
    Finished,
    PageDigest,
    Prepare,
    Prepared,
    Ready,
    Running,
    State,
    Status,
    state_digest,
)
from docker_livemig.requests import MoveRequest, MoveSummary
from docker_livemig.resolve import Resolved, refuse, resolve
from docker_livemig.session import Session
from docker_livemig.sweep import FREEZING, owner, sweep
from docker_livemig.watch import ClientWatch
from livemig.errors import (
    HostError,
    InDoubt,
    LivemigError,
    StateMismatch,
    TransferError,
    UsageError,
)
from livemig.frames import FrameType
from livemig.link import Link
from livemig.model import Image, RoundStat
from livemig.outgoing import Outgoing
from livemig.stdin import UnreadInput
from livemig.system import priority, procfs
from livemig.system.memory import PAGE_SIZE
from livemig.wire import to_wire

_ABORT = 30.0
_PATIENCE = 120.0  # seconds that a committed move tries to reach its target
_LAST_INPUT = 5.0
_MIN_ROUNDS = 2
_SHRINKING = 0.8  # a round that leaves more than this share of what it found is one of the last
_VERIFY_CHUNK = 1 << 20


def run(request: MoveRequest, client: Link) -> None:
    """Carry out a move and tell ``client`` the summary; raises what stood in the way."""
    watch = ClientWatch(client, request.timeout_s)
    summary = Move(request, watch).run()
    client.send(FrameType.SUMMARY, to_wire(summary))


@dataclass
class Move:
    """One move, from the request to the summary."""

    request: MoveRequest
    watch: ClientWatch
    move_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    rounds: list[RoundStat] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    downtime: float = 0.0
    layout: str = ""
    _held: bool = False
    steps: dict[str, float] = field(default_factory=dict)

    def run(self) -> MoveSummary:
        """Go through all phases."""
        self._started = time.monotonic()
        self._api = engine_api.connect()
        self.notes += sweep(self._api)
        self._spec = containers.describe(self._api, self.request.container)
        containers.refuse_uncarried(self._api, self._spec)
        if self.request.keep_source and self._spec.auto_remove:
            raise UsageError(
                f"--keep-source: Docker removes container {self._spec.name} when it ends (--rm)",
                hint="leave --keep-source out",
            )
        self._resolved = resolve(self._spec)
        refuse(self._spec, self._resolved)
        self._journal = Journal(self.move_id)
        with ExitStack() as close, ExitStack() as undo:
            self._undo, self._close = undo, close
            self._connect()
            self._prepare()
            self._create()
            self._send_memory()
            image = self._freeze()
            self._send_state(image)
            running = self._commit()
            self._finish()
        return self._summary(running)

    # Phases that can be undone

    def _connect(self) -> None:
        self.watch.report("connect", f"connecting to {self.request.host}")
        self._session = Session(self.request, self.move_id)
        self._close.callback(self._session.close)
        check_machine(far.facts("source"), self._session.hello)
        self._undo.callback(self.watch.detach)
        self.watch.attach(self._session.link)

    def _prepare(self) -> None:
        self._manifest = rootfs.scan(self._spec.upper_dir)
        self._undo.callback(self._abort)
        self._session.send(
            FrameType.PREPARE,
            Prepare(
                move_id=self.move_id,
                source=os.uname().nodename,
                mode=self.request.mode,
                container=self._spec,
                file_bytes=self._manifest.size,
                vdso=vdso_digest(),
                seccomp=seccomp_profile(self._resolved.pid),
            ),
        )
        prepared = self._session.expect(FrameType.PREPARED, Prepared)
        missing = images.missing(self._api, self._spec, prepared.chains)
        size = images.required_bytes(self._api, self._spec, missing)
        self.watch.report("image", f"sending {len(missing)} missing image layers ({size} bytes)")
        self._session.send(FrameType.IMAGE, {"missing": missing, "bytes": size})
        for chunk in images.export_missing(self._api, self._spec, missing):
            self._session.send(FrameType.IMAGE, None, chunk)
        self._session.send(FrameType.IMAGE, None)
        self._session.confirm(FrameType.IMAGE_DONE)

    def _create(self) -> None:
        self.watch.report("create", f"creating the held container on {self.request.host}")
        self._session.send(FrameType.CREATE)
        self.layout = self._session.expect(FrameType.CREATED, Created).layout
        self.watch.report("files", f"sending {self._manifest.size} bytes of changed files")
        changes = rootfs.everything(self._manifest)
        self._send_files(rootfs.pack(self._spec.upper_dir, changes, settle=True))

    def _send_files(self, chunks: Any) -> None:
        for chunk in chunks:
            self._session.send(FrameType.ROOTFS, None, chunk)
        self._session.send(FrameType.ROOTFS, None)
        self._session.confirm(FrameType.ROOTFS_DONE)

    def _send_memory(self) -> None:
        live = self.request.mode == "live"
        resolved: Resolved = self._resolved
        self._outgoing = Outgoing(
            resolved.pid, resolved.freezer, resolved.streams, self.request.cache_mib << 20
        )
        self._close.callback(self._outgoing.close)
        self._undo.callback(self._outgoing.release)
        self._outgoing.start(live=live)
        if live:
            priority.background(self._session.processes())
            self._iterate()
        containers.set_policy_no(self._api, self._spec)
        self._undo.callback(containers.restore_policy, self._api, self._spec.id, self._spec)
        self._journal.append(
            FREEZING,
            container=self._spec.id,
            host=self.request.host,
            policy=self._spec.restart_policy,
            owner=owner(),
        )
        self._undo.callback(self._journal.remove)

    def _iterate(self) -> None:
        """Send rounds until what is left fits the downtime, or they stop shrinking."""
        fastest, before = 1.0, 0
        while len(self.rounds) < self.request.max_rounds:
            started = time.monotonic()
            stat = self._round()
            if stat.pages:
                fastest = max(fastest, stat.pages * PAGE_SIZE / (time.monotonic() - started))
            left = self._outgoing.waiting()
            self.watch.report("round", stat=stat, rate=fastest, dirty=left)
            fits = left / fastest * 1000 <= self.request.downtime_limit_ms
            if len(self.rounds) >= _MIN_ROUNDS and (fits or left > before * _SHRINKING):
                return
            before = left

    def _round(self) -> RoundStat:
        started, sent = time.monotonic(), self._session.bytes_sent
        stat = self._outgoing.round(self._session.link.send)
        self._session.confirm(FrameType.ROUND_DONE)
        result = replace(
            stat,
            bytes=self._session.bytes_sent - sent,
            millis=(time.monotonic() - started) * 1000,
        )
        self.rounds.append(result)
        return result

    def _freeze(self) -> Image:
        self.watch.report("freeze", "freezing the container")
        priority.foreground(self._session.processes())
        self._session.send(FrameType.FREEZE)
        self._frozen_at = self._last_step = time.monotonic()
        self._outgoing.freeze()
        self._step("stop")
        manifest = rootfs.scan(self._spec.upper_dir, self._manifest)
        if changes := rootfs.changed(self._manifest, manifest):
            self._send_files(rootfs.pack(self._spec.upper_dir, changes))
        self._step("files")
        self._round()
        self._step("last round")
        self._digests = self._digest_pages() if self.request.verify else ()
        return self._outgoing.extract()

    def _send_state(self, image: Image) -> None:
        self._step("extract")
        body = to_wire(State(image, self._digests))
        self._held = True
        self._session.send(FrameType.STATE, body)
        self._stdin = self._outgoing.seal()
        self._step("seal")
        ready = self._session.expect(FrameType.READY, Ready)
        if ready.state != state_digest(body):
            raise StateMismatch("the target built another state than was sent")
        self._step("rebuild")

    def _digest_pages(self) -> tuple[PageDigest, ...]:
        return tuple(
            PageDigest(1, start, start + len(data), xxhash.xxh3_64_intdigest(data))
            for start, data in self._outgoing.contents(_VERIFY_CHUNK)
        )

    def _abort(self) -> None:
        try:
            self._session.abort(held=self._held, patience=_ABORT)
        except LivemigError as error:
            self.watch.report("abort", f"{self.request.host} may still hold the copy: {error}")

    # The point of no return, and what comes after it

    def _commit(self) -> Running:
        """Decide for the target: from here on the source's copy never runs again."""
        self.watch.commit()
        self._journal.append("committed", container=self._spec.id, host=self.request.host)
        self._undo.pop_all()
        self._step("commit")
        try:
            running = self._tell_commit()
        except TransferError as error:
            running = self._commit_again(error)
        self._step("switch")
        self.downtime = (time.monotonic() - self._frozen_at) * 1000
        return running

    def _tell_commit(self) -> Running:
        self._session.send(FrameType.COMMIT)
        return self._session.expect(FrameType.RUNNING, Running)

    def _commit_again(self, reason: TransferError) -> Running:
        """Bring the decision to a target whose connection was lost; InDoubt where that fails."""
        self.watch.report("resume", f"{reason.message}; connecting again")
        try:
            return self._session.resume(_PATIENCE, self._commit_where_it_stands)
        except (TransferError, HostError) as error:
            raise self._in_doubt(error.message) from error

    def _commit_where_it_stands(self, status: Status) -> Running:
        if status.state == "running":
            return Running(status.container_id)
        if status.state == "ready":
            return self._tell_commit()
        raise self._in_doubt(f"the move is {status.state} there")

    def _in_doubt(self, problem: str) -> InDoubt:
        return InDoubt(
            f"container {self._spec.name} was handed over to {self.request.host}, which does not "
            f"confirm that it runs there: {problem}",
            hint=f"see `docker ps` there; the copy here stays frozen (move {self.move_id})",
        )

    def _finish(self) -> None:
        self.watch.report("finish", "removing the source's container")
        self._outgoing.kill()
        self._forward_input(self._stdin)
        containers.remove_source(
            self._api,
            self._spec,
            keep=self.request.keep_source,
            new_name=containers.kept_name(self._spec, self.move_id),
        )
        self._journal.remove()
        try:
            self.notes += self._finish_target()
        except (TransferError, HostError) as error:
            self.notes.append(f"{self.request.host} did not confirm the end: {error.message}")

    def _finish_target(self) -> tuple[str, ...]:
        try:
            return self._tell_finish()
        except TransferError:
            return self._session.resume(
                _ABORT, lambda status: self._tell_finish() if status.state == "running" else ()
            )

    def _tell_finish(self) -> tuple[str, ...]:
        self._session.send(FrameType.FINISH)
        return self._session.expect(FrameType.FINISHED, Finished).notes

    def _forward_input(self, stdin: UnreadInput | None) -> None:
        if stdin is None:
            return
        try:
            for data in stdin.rest(_LAST_INPUT):
                self._session.send(FrameType.STDIN, None, data)
        except TransferError as error:
            self.notes.append(f"late standard input may be lost: {error.message}")

    # Details

    def _step(self, name: str) -> None:
        now = time.monotonic()
        self.steps[name] = (now - self._last_step) * 1000
        self._last_step = now

    def _summary(self, running: Running) -> MoveSummary:
        return MoveSummary(
            container=self._spec.name,
            container_id=running.container_id,
            source=os.uname().nodename,
            target=self._session.hello.host,
            mode=self.request.mode,
            tracker=self._outgoing.tracker.name,
            layout=self.layout,
            rounds=self.rounds,
            downtime_ms=self.downtime,
            total_ms=(time.monotonic() - self._started) * 1000,
            sent_bytes=self._session.bytes_sent,
            steps=self.steps,
            source_kib=int(procfs.read_status(os.getpid())["VmHWM"].split()[0]),
            notes=self.notes,
        )
