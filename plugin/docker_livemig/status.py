"""`docker livemig status`: what this host knows of its moves, and what the other side does."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from dataclasses import replace

from docker_livemig import copies, engine_api
from docker_livemig.journal import Journal
from docker_livemig.recover import find
from docker_livemig.requests import MoveView, Query, Recover, Report
from docker_livemig.steps import ANSWER
from docker_livemig.sweep import is_source
from docker_livemig.way import Unreachable, dial
from livemig.errors import InternalError, LivemigError, NoDocker
from livemig.frames import FrameType
from livemig.link import Link
from livemig.wire import from_wire, to_wire


def report(query: Query, client: Link) -> None:
    """Tell ``client`` of the moves that are asked for; nothing is changed by it."""
    journals = find(query.move_id) if query.ask else _named(query.move_id)
    views = [view for journal in journals if (view := look(journal)) is not None]
    if query.ask:
        unreachable = Unreachable()
        views = [replace(view, there=_ask(view, query, unreachable)) for view in views]
    client.send(FrameType.REPORT, to_wire(Report(os.uname().nodename, tuple(views))))


def look(journal: Journal) -> MoveView | None:
    """Return what this host knows of a move; None for one without a line in its journal."""
    known = journal.known()
    if known is None:
        return None
    under_way = not journal.take()
    if not under_way:
        journal.leave()
    details, source = known.details, is_source(known)
    name = copy = "?"
    container = str(details.get("container", ""))
    with suppress(InternalError):  # `recover` says what to do about a damaged one
        spec = copies.spec_of(journal, known)
        name, container = spec.name, spec.id if source else container
        copy = _copy(journal, container)
    return MoveView(
        id=journal.move_id,
        role="source" if source else "target",
        container=name,
        container_id=container,
        state=known.state,
        copy=copy,
        under_way=under_way,
        since=known.time,
        other=str(details.get("host" if source else "source", "?")),
    )


def _named(move_id: str) -> list[Journal]:
    return [Journal(move_id)] if move_id else list(Journal.all())


def _copy(journal: Journal, container: str) -> str:
    if not container:
        return "gone"
    try:
        with engine_api.connected(journal.engine) as api:
            return copies.look(api, container).word
    except NoDocker:
        return "unknown"


def _ask(view: MoveView, query: Query, unreachable: Unreachable) -> str:
    """Return what the other host says of the move, or why it cannot be asked."""
    way = Recover(ssh_agent=query.ssh_agent, run_ssh_as=query.run_ssh_as)
    try:
        with closing(dial(Journal(view.id), way, unreachable)) as other:
            other.link.send(FrameType.QUERY, to_wire(Query(view.id)))
            answer = other.link.expect(FrameType.REPORT, timeout=ANSWER)
    except LivemigError as error:
        return f"cannot be asked: {error.message}"
    found = from_wire(Report, answer.body).moves
    with suppress(IndexError):
        return f"{found[0].state}, {found[0].copy}" + ", under way" * found[0].under_way
    return "nothing"
