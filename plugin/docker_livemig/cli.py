"""The command line: ``docker [OPTIONS OF DOCKER] livemig …``."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from docker_livemig import hosts, progress
from docker_livemig.exits import SUCCESS, exit_code
from docker_livemig.options import PLUGIN, Globals, Parser, make_request, move_parser, split_globals
from docker_livemig.requests import MoveSummary
from docker_livemig.version import PROTOCOL, VERSION
from livemig.errors import Cancelled, InternalError, LivemigError, UsageError, readable

_COMPLETION = ("__complete", "__completeNoDesc")


def main(argv: Sequence[str]) -> int:
    """Run the command line ``argv``, as Docker passes it; return the exit code."""
    display: progress.Display = progress.make("plain", sys.stderr)
    debug = False
    if argv and argv[0] in _COMPLETION:
        sys.stdout.write(":4\n")  # nothing to complete with, files least of all
        return SUCCESS
    try:
        given, words = split_globals(argv)
        debug = given.debug
        if given.config:
            os.environ["DOCKER_CONFIG"] = given.config
        if words and words[0] in _COMMANDS:
            return _COMMANDS[words[0]](words[1:], given)
        options = move_parser().parse_args(words)
        debug = debug or options.debug
        display = progress.make("quiet" if options.quiet else options.progress, sys.stderr)
        return _move(options, given, display)
    except LivemigError as error:
        failure = error
    except KeyboardInterrupt:
        failure = Cancelled("cancelled")
    except Exception as error:  # noqa: BLE001  the one handler at the top
        failure = InternalError(f"{type(error).__name__}: {error}", hint="--debug tells where")
        failure.__cause__ = error
    if debug:
        traceback.print_exception(failure)
    display.error(failure)
    return exit_code(failure)


def _move(options: argparse.Namespace, given: Globals, display: progress.Display) -> int:
    from docker_livemig import client  # noqa: PLC0415  --help and version start faster without

    endpoint = hosts.current_endpoint(given.host, given.context)
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    request = make_request(options, endpoint, agent)
    try:
        summary = client.carry_out(endpoint, request, display)
    finally:
        display.finish()
    if text := _result(summary, options):
        _show(text)
    return SUCCESS


def _result(summary: MoveSummary, options: argparse.Namespace) -> str:
    if options.format == "json":
        return progress.summary_json(summary)
    if options.quiet:
        return summary.container_id
    return progress.summary_table(summary)


def _peer(words: list[str], _given: Globals) -> int:
    from docker_livemig import peer  # noqa: PLC0415  what only a peer needs

    parser = Parser(prog=f"docker {PLUGIN} peer", allow_abbrev=False)
    parser.add_argument(
        "--stdio",
        action="store_true",
        required=True,
        help="speak the protocol on the standard streams",
    )
    parser.add_argument("--sudo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--connection", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    return peer.main(through_sudo=options.sudo, connection=options.connection)


def _setup(words: list[str], given: Globals) -> int:
    from docker_livemig import setup  # noqa: PLC0415  speaks to Docker's engine

    parser = Parser(
        prog=f"docker {PLUGIN} setup",
        description="Register the OCI runtime livemig-runc, which holds a container that is on "
        "its way here, with this host's Docker. It never becomes the default runtime.",
        allow_abbrev=False,
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument(
        "--undo",
        action="store_true",
        help="take it out again; refused while a container depends on it",
    )
    options = parser.parse_args(words)
    endpoint = hosts.current_endpoint(given.host, given.context)
    if not endpoint.startswith("unix://"):
        raise UsageError(
            f"setup changes the Docker of the host that it runs on, and {endpoint} is another",
            hint="run it there, as root",
        )
    for line in setup.run(dry_run=options.dry_run, undo=options.undo, engine=endpoint):
        _show(line)
    return SUCCESS


def _version(words: list[str], _given: Globals) -> int:
    Parser(prog=f"docker {PLUGIN} version", allow_abbrev=False).parse_args(words)
    _show(f"docker-livemig {VERSION}, protocol {PROTOCOL}")
    return SUCCESS


_QUESTIONS = {
    "status": "List the moves of a host that are under way or in doubt, with what each side knows.",
    "recover": "End a move whose peers are gone. Both journals settle where the container runs: "
    "where it was committed, on the target, else on the source.",
}


def _ask(command: str, words: list[str], given: Globals) -> int:
    from docker_livemig import inquiry  # noqa: PLC0415  --help and version start faster without

    asks = {
        "status": (inquiry.status_parser, inquiry.status),
        "recover": (inquiry.recover_parser, inquiry.recover),
    }
    arguments, answer = asks[command]
    parser = Parser(
        prog=f"docker {PLUGIN} {command}", description=_QUESTIONS[command], allow_abbrev=False
    )
    options = arguments(parser).parse_args(words)
    text, code = answer(options, hosts.current_endpoint(given.host, given.context))
    try:
        if text:
            _show(text)
    except LivemigError:
        if code == SUCCESS:
            raise
    return code


def _show(text: str) -> None:
    """Write what peers told, names of files for one, which may hold what is no text.

    LivemigError where it cannot be written. Whoever does not read all of it has what he wanted.
    """
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        sys.stdout.write(readable(text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
    except OSError as error:
        _silence()
        raise LivemigError(
            f"what was asked for is done, but standard output takes no word of it: {error}",
            hint="`docker ps` and `docker livemig status` show what came of it",
        ) from error


def _silence() -> None:
    """Have what is left in the buffer go nowhere: it would fail once more at the end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_COMMANDS: dict[str, Callable[[list[str], Globals], int]] = {
    "peer": _peer,
    "setup": _setup,
    "version": _version,
    **{command: partial(_ask, command) for command in _QUESTIONS},
}
