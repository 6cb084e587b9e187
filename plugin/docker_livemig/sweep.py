"""Look after the moves of this host whose peers were killed: do what it can decide alone.

Every peer that starts a move or takes part in one does this first. The rest needs the other side's
word, and is left to `docker livemig recover`.
"""

from __future__ import annotations

from contextlib import nullcontext

import docker
from docker_livemig import copies, hold
from docker_livemig.containers import ContainerSpec
from docker_livemig.engine_api import connected
from docker_livemig.journal import Entry, Journal
from docker_livemig.standing import look_after
from docker_livemig.steps import SourceState
from livemig.errors import InDoubt, LivemigError

_SOURCE = frozenset(SourceState)


def sweep(api: docker.APIClient) -> list[str]:
    """Look after every move whose owner is dead; return a line for each that is not ended."""
    lines = []
    for journal in Journal.all():
        if not journal.take():
            continue
        try:
            with connected(journal.engine) as its_own:
                look_after_move(its_own, journal)
        except (LivemigError, OSError) as error:
            lines.append(f"the move {journal.move_id}, which is {journal.state}: {error}")
        finally:
            journal.leave()
    return lines + _forget_holds(api)


def _forget_holds(api: docker.APIClient) -> list[str]:
    """Forget the holds of containers that are gone; return a line for each that stands in the way.

    One that was made by another engine of this host is that one's to know.
    """
    lines = []
    for container in hold.registered():
        try:
            engine = hold.engine(container)
            with connected(engine) if engine else nullcontext(api) as its_own:
                if copies.look(its_own, container).status == "gone":
                    hold.forget(container)
        except (LivemigError, OSError) as error:
            lines.append(f"the hold of container {container[:12]}: {error}")
    return lines


def refuse_handed_over(spec: ContainerSpec) -> None:
    """Raise InDoubt where a move of this container has not ended by which it may run elsewhere.

    Docker says of such a one that it runs: it is frozen, and it may be that it must not run again.
    """
    for journal in Journal.all():
        known = journal.known()
        if known is None or not is_open(known):
            continue
        if copies.spec_of(journal, known).id == spec.id:
            raise InDoubt(
                f"container {spec.name} is frozen here by the move {journal.move_id} to "
                f"{known.details['host']}, which is {known.state}",
                hint=f"`docker livemig recover {journal.move_id}` ends it",
            )


def is_open(known: Entry) -> bool:
    """Tell whether this host is the source of a move by which its container is, or was, frozen."""
    if not is_source(known):
        return False
    if known.state == SourceState.RETURNED:
        return not known.details.get("settled")
    return known.state != SourceState.BEGUN


def look_after_move(api: docker.APIClient, journal: Journal) -> None:
    """Do what this host can decide alone about one move, which the caller owns."""
    if is_source(journal):
        let_source_run(api, journal)
    else:
        look_after(api, journal)


def is_source(journal: Journal | Entry) -> bool:
    """Tell whether this host is the source of a move."""
    return journal.state in _SOURCE


def let_source_run(api: docker.APIClient, journal: Journal) -> None:
    """Let a container run on that was not handed over (presumed abort).

    One that has ended when the target may be ready stays as it is: the target's copy would be the
    last. The journal stays where the target has to be told.
    """
    state = journal.state
    if state == SourceState.BEGUN:
        journal.remove()  # it was never stopped
    elif state == SourceState.RETURNED or (
        state == SourceState.FREEZING and copies.look(api, copies.spec_of(journal).id).lives
    ):
        give_back(api, journal)


def give_back(api: docker.APIClient, journal: Journal) -> None:
    """Let the source's container run for good, once: the target's copy never will."""
    if journal.details().get("settled"):
        return
    if journal.state != SourceState.RETURNED:
        journal.append(SourceState.RETURNED)
    copies.let_run(api, copies.spec_of(journal), journal.since(SourceState.FREEZING))
    journal.append(SourceState.RETURNED, settled=True)
