"""Ending a move on its source, with a target that says where it stands.

The source decides: its journal says whether the move was committed. One exception each way: a copy
that is lost before it ran gives the container back, and a container that has ended on the source
before the commit is handed over, since the target's copy is the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from enum import StrEnum

import docker
from docker_livemig import copies
from docker_livemig.journal import Journal
from docker_livemig.messages import Commit, Finished, Running, Status
from docker_livemig.requests import Force, Outcome
from docker_livemig.steps import ANSWER, SourceState
from docker_livemig.sweep import give_back
from livemig import terminal, typed
from livemig.errors import Contradicted, InDoubt, LivemigError, StepTimeout, TransferError, UnderWay
from livemig.frames import FrameType
from livemig.link import Link
from livemig.system import ttys
from livemig.wire import from_wire, to_wire


class Verdict(StrEnum):
    """What becomes of a move."""

    COMMIT = "commit"
    COMPLETE = "complete"
    ABORT = "abort"
    UNDECIDED = "undecided"


def decide(source: str, lives: bool, target: str) -> Verdict:
    """Return the verdict for the source's state, whether its copy lives, and the target's word.

    ``source`` is a SourceState, or empty where the source knows nothing of the move.
    """
    if source == SourceState.COMMITTED:
        return {
            "ready": Verdict.COMMIT,
            "running": Verdict.COMPLETE,
            "lost": Verdict.ABORT,
        }.get(target, Verdict.UNDECIDED)
    if target == "running":  # by the operator's word, where the source had not committed
        forced = source in (SourceState.BEGUN, SourceState.RETURNED)
        return Verdict.UNDECIDED if forced and lives else Verdict.COMPLETE
    if target == "ready" and source == SourceState.FREEZING and not lives:
        return Verdict.COMMIT
    return Verdict.ABORT


def settle(
    api: docker.APIClient, journal: Journal, link: Link, status: Status, force: Force = ""
) -> Outcome:
    """End the move over ``link``, on which the target has said ``status``.

    The caller owns the journal. Raises InDoubt where both journals do not settle it and the
    operator has not either, Contradicted where his word is not theirs.
    """
    state = journal.state
    copy = copies.look(api, copies.spec_of(journal).id) if state else copies.Copy("gone")
    verdict = decide(state, copy.lives, status.state)
    wanted = "abort" if verdict is Verdict.ABORT else "commit"
    if verdict is Verdict.UNDECIDED:
        verdict = _by_force(journal, status.state, force)
    elif force not in ("", wanted):
        raise Contradicted(
            f"the move {journal.move_id} is {state or 'unknown'} on the source and {status.state} "
            f"on the target: --{force} would make two copies, or none",
            hint="leave the option out: both sides can be asked, and agree",
        )
    if verdict is Verdict.ABORT:
        return _abort(api, journal, link)
    container = status.container_id
    if verdict is Verdict.COMMIT:
        if state != SourceState.COMMITTED:
            journal.append(SourceState.COMMITTED)
        with _left_typed(copy) as commitment:
            link.send(FrameType.COMMIT, to_wire(commitment))
            container = from_wire(Running, _expect(link, FrameType.RUNNING)).container_id
    return _complete(api, journal, link, container)


def await_status(link: Link, move_id: str) -> Status:
    """Return where the target says that a move stands; UnderWay where a peer there is at work."""
    status = from_wire(Status, _expect(link, FrameType.STATUS))
    if status.state == "busy":
        raise UnderWay(f"a peer on {link.name} is at work on the move {move_id}")
    return status


@contextmanager
def _left_typed(copy: copies.Copy) -> Iterator[Commit]:
    """Take what was typed at the source's copy and not read, if its peer had not begun to do so.

    It is put back where the scope ends by an error: the next try takes it again.
    """
    pty = terminal.find(copy.pid) if copy.lives and copy.frozen else None
    if pty is None:
        yield Commit()
        return
    with closing(pty):
        settings = ttys.settings(pty.slave)
        if typed.may_have_been_taken(settings):
            yield Commit()
            return
        # Signals of keys that the target has pending already become no more by being sent again.
        found = typed.take(pty, 0, copy.pid)
        try:
            yield Commit(found)
        except BaseException:
            typed.put_back(pty, found, settings)
            raise


def _by_force(journal: Journal, target: str, force: Force) -> Verdict:
    if not force:
        raise InDoubt(
            f"the move {journal.move_id} is {journal.state} on the source and {target} on the "
            "target, which does not settle where the container is to run",
            hint="see what runs on both hosts, and give --commit (it is there) or --abort (here)",
        )
    return Verdict.ABORT if force == "abort" else Verdict.COMPLETE


def _abort(api: docker.APIClient, journal: Journal, link: Link) -> Outcome:
    name = _name(journal)
    if journal.state:
        give_back(api, journal)
    link.send(FrameType.ABORT, {"message": "the move was given up"})
    _expect(link, FrameType.ABORTED)
    here = bool(journal.state) and copies.look(api, copies.spec_of(journal).id).lives
    journal.remove()
    text = "undone: it runs on the source" if here else "undone"
    return Outcome(journal.move_id, name, "runs-here" if here else "ended", text)


def _complete(api: docker.APIClient, journal: Journal, link: Link, container: str) -> Outcome:
    name = _name(journal)
    if journal.state:
        copies.end(api, journal)
        journal.remove()
    with suppress(TransferError):  # the target is complete, whether it hears of this or not
        link.send(FrameType.FINISH)
        from_wire(Finished, _expect(link, FrameType.FINISHED))
    text = "completed: it runs on the target"
    return Outcome(journal.move_id, name, "runs-there", text, container)


def _name(journal: Journal) -> str:
    with suppress(LivemigError):
        return copies.spec_of(journal).name
    return ""


def _expect(link: Link, kind: FrameType) -> object:
    frame = link.poll(ANSWER)
    if frame is None:
        raise StepTimeout(f"{link.name} did not answer with {kind.name} within {ANSWER:g} s")
    if frame.type is not kind:
        raise TransferError(f"{link.name} sent {frame.type.name} where {kind.name} was due")
    return frame.body
