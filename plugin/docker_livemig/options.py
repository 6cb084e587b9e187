"""The words of the command line: Docker's own options, those of a move, and what they stand for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from docker_livemig import hosts, progress
from docker_livemig.exits import table
from docker_livemig.requests import MoveRequest
from livemig.errors import UsageError
from livemig.model import LAYOUTS, TRACKERS

PLUGIN = "livemig"
_VALUED = {
    "--config": "config",
    "--context": "context",
    "-c": "context",
    "--host": "host",
    "-H": "host",
    "--log-level": "",
    "-l": "",
    "--tlscacert": "",
    "--tlscert": "",
    "--tlskey": "",
}
_FLAGS = {"--debug": "debug", "-D": "debug", "--tls": "", "--tlsverify": ""}
_EXAMPLES = """\
examples:
  docker livemig web b                      move the container "web" to the host "b", live
  docker livemig web ssh://root@10.0.0.2    the same, to a host by its address
  docker livemig --mode stop-and-copy web b stop it, copy it, let it run on
  docker --context a livemig web b          move it from the host of context "a" to "b"
  docker livemig -- status b                move a container that is called "status"

commands (as the first word):
  setup [--dry-run] [--undo]   register the runtime that holds containers with this host's Docker
  status [HOST]                list the moves that are under way or in doubt, and what each side
                               knows of them
  recover [ID] [--abort|--commit]
                               end a move whose peers are gone; the options are for when the other
                               host cannot be asked
  version                      show the versions of program and protocol

HOST is the name of a docker context with an ssh endpoint, a name that ssh knows, or
ssh://[user@]host[:port]. Both hosts need Docker and this plugin, and `docker livemig setup` once.

exit codes:
"""


@dataclass(frozen=True)
class Globals:
    """The options of docker itself that stood before the word ``livemig``."""

    config: str = ""
    context: str = ""
    host: str = ""
    debug: bool = False


class Parser(argparse.ArgumentParser):
    """A parser of words that does not end the program where they are wrong."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def split_globals(argv: Sequence[str]) -> tuple[Globals, list[str]]:
    """Separate the options of docker before the word ``livemig`` from what follows it.

    Docker passes its whole command line. Without that word, all belongs to this program, which
    was called by its own name then. Raises UsageError for an option without its value.
    """
    words = list(argv)
    if words[:2] == ["help", PLUGIN]:
        return Globals(), [*words[2:], "--help"]
    values: dict[str, str] = {}
    while words and words[0] != PLUGIN and _take_global(words, values):
        pass
    if words[:1] != [PLUGIN]:
        return Globals(), list(argv)
    given = Globals(
        config=values.get("config", ""),
        context=values.get("context", ""),
        host=values.get("host", ""),
        debug=values.get("debug", "") == "true",
    )
    return given, words[1:]


def _take_global(words: list[str], values: dict[str, str]) -> bool:
    """Take one option of docker off ``words``; say whether there was one."""
    name, equals, value = words[0].partition("=")
    if not name.startswith("--"):
        name, value = words[0][:2], words[0][2:].removeprefix("=")
        equals = value
    if name in _FLAGS:
        values[_FLAGS[name]] = value or "true"
        del words[0]
        return True
    if name not in _VALUED:
        return False
    if not equals and len(words) < 2:
        raise UsageError(f"option {name} of docker needs a value")
    values[_VALUED[name]] = value if equals else words[1]
    del words[: 1 if equals else 2]
    return True


def move_parser() -> argparse.ArgumentParser:
    """Return the parser of a move."""
    parser = Parser(
        prog=f"docker {PLUGIN}",
        usage=f"docker {PLUGIN} [OPTIONS] CONTAINER HOST",
        description="Move a running container to another host's Docker, with the memory, the "
        "processes and the files that it has, while it runs.",
        epilog=_EXAMPLES + table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "container", metavar="CONTAINER", type=_container, help="name or ID of the container"
    )
    parser.add_argument("host", metavar="HOST", help="where it goes")
    _add_ways(parser)
    _add_limits(parser)
    _add_output(parser)
    return parser


def _add_ways(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--mode",
        choices=("live", "stop-and-copy"),
        default="live",
        help="live: copy the memory in rounds while the container runs, and stop it for the last "
        "one only; stop-and-copy: stop it first (default: %(default)s)",
    )
    add(
        "--tracker",
        choices=("auto", *TRACKERS),
        default="auto",
        help="what finds written pages in live mode: auto takes the first of the three that the "
        "kernel has (default: %(default)s)",
    )
    add(
        "--layout",
        choices=("auto", *LAYOUTS),
        default="auto",
        help="what lays the memory out on HOST: the mremap device, or the process itself, led by a "
        "stub; auto takes the device where HOST has one (default: %(default)s)",
    )
    add(
        "--keep-source",
        action="store_true",
        help="leave the container on the source, stopped and renamed",
    )
    add(
        "--dry-run",
        action="store_true",
        help="move nothing: ask both hosts whether they know of anything that stands in the way, "
        "and exit as a move would",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--downtime-limit",
        metavar="MS",
        type=_number(1, 3_600_000),
        default=100,
        help="stop the container once what is left takes no longer, or once rounds do not make it "
        "less (default: %(default)s)",
    )
    add(
        "--max-rounds",
        metavar="N",
        type=_number(1, 10_000),
        default=30,
        help="stop the container after N rounds at the latest (default: %(default)s)",
    )
    add(
        "--cache",
        metavar="MIB",
        type=_number(0, 1 << 20),
        default=64,
        help="memory for copies of pages that were sent, to send only what changed in them "
        "(default: %(default)s)",
    )
    add(
        "--verify",
        action="store_true",
        help="compare every page and all state while the container is stopped",
    )
    add(
        "--timeout",
        metavar="S",
        type=_number(0, 1 << 30),
        default=0,
        help="undo the move when it takes longer than this many seconds (default: no limit)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--progress",
        choices=progress.MODES,
        default="auto",
        help="how progress is shown, on standard error (default: %(default)s)",
    )
    add(
        "-q",
        "--quiet",
        action="store_true",
        help="show no progress, and print only the ID of the container on the target",
    )
    add(
        "--format",
        choices=("table", "json"),
        default="table",
        help="of the summary, on standard output (default: %(default)s)",
    )
    add("-D", "--debug", action="store_true", help="show where an error comes from")


def _container(text: str) -> str:
    if not re.fullmatch(r"/?[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the name or ID of a container")
    return text


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return number


def make_request(options: argparse.Namespace, endpoint: str, agent: str) -> MoveRequest:
    """Return the request that the options stand for. Raises UsageError, HostUnknown."""
    return MoveRequest(
        container=options.container,
        host=options.host,
        mode=options.mode,
        tracker=options.tracker,
        layout=options.layout,
        keep_source=options.keep_source,
        dry_run=options.dry_run,
        downtime_limit_ms=options.downtime_limit,
        max_rounds=options.max_rounds,
        cache_mib=options.cache,
        verify=options.verify,
        timeout_s=float(options.timeout),
        destination=hosts.resolve(options.host).url,
        docker_host=endpoint if endpoint.startswith("unix://") else "",
        ssh_agent=agent if endpoint.startswith("unix://") else "",
    )
