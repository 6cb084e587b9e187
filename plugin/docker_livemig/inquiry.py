"""The commands `status` and `recover`: what they are called with, and what they show."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from docker_livemig import client, far, hosts
from docker_livemig.exits import EXIT_CODES, SUCCESS
from docker_livemig.requests import MoveView, Query, Recover, Report
from livemig.errors import InDoubt
from livemig.frames import FrameType


def status_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give ``parser`` the arguments of `status`."""
    parser.add_argument(
        "host", metavar="HOST", nargs="?", default="", help="whose moves (default: this host's)"
    )
    _add_format(parser)
    return parser


def recover_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give ``parser`` the arguments of `recover`."""
    add = parser.add_argument
    add(
        "id",
        metavar="ID",
        nargs="?",
        default="",
        help="of the move, or how it begins (default: every move that no peer is at work on)",
    )
    word = parser.add_mutually_exclusive_group()
    word.add_argument(
        "--commit",
        action="store_const",
        dest="force",
        const="commit",
        help="of one move whose other host cannot be asked: the container is to run on the target",
    )
    word.add_argument(
        "--abort",
        action="store_const",
        dest="force",
        const="abort",
        help="of one move whose other host cannot be asked: the container is to run on the source",
    )
    add("--other", metavar="HOST", default="", help="how that move's other host is reached")
    _add_format(parser)
    return parser


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table")


def status(options: argparse.Namespace, endpoint: str) -> tuple[str, int]:
    """Return what `docker livemig status` shows, and its exit code."""
    if options.host:
        peer, local = far.connect_ssh(hosts.resolve(options.host), role="client"), ""
    else:
        peer, local = client.start_source(endpoint), endpoint
    query = Query(ask=True, **client.surroundings(local))
    report = client.ask(peer, FrameType.QUERY, query, FrameType.REPORT, Report)
    if options.format == "json":
        return json.dumps(asdict(report), indent=2), SUCCESS
    return _table(report.moves), SUCCESS


def recover(options: argparse.Namespace, endpoint: str) -> tuple[str, int]:
    """Carry out `docker livemig recover`; return what it shows, and its exit code.

    That is InDoubt's where a move stays in doubt.
    """
    # Contexts are known here alone.
    other = hosts.resolve(options.other).url if options.other else ""
    wish = Recover(move_id=options.id, force=options.force or "", other=other)
    recovered = client.end_moves(endpoint, wish)
    in_doubt = any(each.result == "in-doubt" for each in recovered.outcomes)
    code = EXIT_CODES[InDoubt] if in_doubt else SUCCESS
    if options.format == "json":
        return json.dumps(asdict(recovered), indent=2), code
    lines = [f"{each.container or each.id}: {each.text}" for each in recovered.outcomes]
    return "\n".join(lines), code


def _table(moves: tuple[MoveView, ...]) -> str:
    head = ("MOVE", "ROLE", "CONTAINER", "STATE", "COPY", "SINCE", "OTHER HOST", "THERE")
    rows = [head]
    for move in moves:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(move.since))
        state = f"{move.state}, under way" if move.under_way else move.state
        rows.append(
            (move.id[:12], move.role, move.container, state, move.copy, since, move.other,
             move.there)
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
