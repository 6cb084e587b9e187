"""The way to the other host of a move: as the move went it, or as the operator names it."""

from __future__ import annotations

import pwd
from typing import Any

from docker_livemig import far, hosts
from docker_livemig.journal import Journal
from docker_livemig.requests import MoveRequest, Recover
from livemig.errors import HostError, HostUnknown, HostUnreachable, UsageError
from livemig.wire import from_wire

NO_CONNECTION = (HostUnreachable, HostUnknown)
"""What `dial` raises where the other host cannot be asked: the operator's word counts then."""

Unreachable = dict[tuple[str, str, str], HostError]
"""What was said of places that were tried in vain, with the account and the machine that was looked
for: a host that is away is tried once, for trying takes its time."""


def dial(journal: Journal, request: Recover, unreachable: Unreachable) -> far.FarPeer:
    """Return a peer on the other host of a move, by the first way that leads there.

    Raises one of NO_CONNECTION where none does. What comes after that is no reason to go by the
    operator's word: a host that answers can be asked, once what stands in the way there (another
    version, no plugin, a Docker that is away) is mended; that is raised as any other error.
    """
    details = journal.details()
    failure: HostError = HostUnreachable("no way to it is known", hint="name one by --other")
    answered: HostError | None = None
    places, user = _ways(details)
    user, machine = request.run_ssh_as or user, str(details.get("machine", ""))
    for place in dict.fromkeys(filter(None, [request.other, *places])):
        if found := unreachable.get((place, user, machine)):
            failure = found
            continue
        try:
            return _connect(place, request, user, machine)
        except NO_CONNECTION as error:
            failure = unreachable[place, user, machine] = error
        except HostError as error:
            answered = answered or error
    raise answered or failure


def _ways(details: dict[str, Any]) -> tuple[tuple[str, str], str]:
    """Return how the other host was reached and what it is called, and whom ssh ran as.

    That is nobody where this host does not know the account any more.
    """
    if "request" in details:
        move = from_wire(MoveRequest, details["request"])
        return (move.destination, move.host), _known(move.run_ssh_as)
    return (str(details.get("address", "")), str(details.get("source", ""))), ""


def _known(user: str) -> str:
    try:
        return pwd.getpwnam(user).pw_name if user else ""
    except KeyError:
        return ""


def _connect(place: str, request: Recover, user: str, known: str) -> far.FarPeer:
    """Connect; HostUnreachable where that is another machine than the ``known`` one."""
    to = _destination(place, chosen=place == request.other)
    peer = far.connect_ssh(to, role="peer", user=user, agent=request.ssh_agent)
    found = peer.hello.machine
    if known and found and known != found:
        peer.close()
        raise HostUnreachable(
            f"{place} is another machine ({peer.hello.host}, machine-id {found}) than the one of "
            f"the move (machine-id {known})"
        )
    return peer


def _destination(place: str, *, chosen: bool) -> hosts.Destination:
    """Return it; HostUnknown where what was noted of a move, and not chosen now, leads nowhere."""
    try:
        return hosts.resolve(place)
    except UsageError as error:
        if chosen:
            raise
        raise HostUnknown(error.message) from error
