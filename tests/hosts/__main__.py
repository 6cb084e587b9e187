"""python -m tests.hosts up|down|status|images|exec HOST -- COMMAND…"""

from __future__ import annotations

import argparse
import sys

from .config import state_root
from .images import built_archives
from .machine import Host
from .pair import alone, attach, bring_down, bring_up
from .proc import HostsError


def main() -> int:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start both hosts, afresh")
    up.add_argument("--no-plugin", action="store_true", help="without docker-livemig")
    up.add_argument("--setup", action="store_true", help="run `docker livemig setup` in both")
    commands.add_parser("down", help="end both hosts, remove what they kept")
    commands.add_parser("status", help="show what runs")
    commands.add_parser("images", help="build the project's images, or see that they are cached")
    execute = commands.add_parser("exec", help="run a command in a host")
    execute.add_argument("host", help="lma or lmb")
    execute.add_argument("argv", nargs=argparse.REMAINDER, help="-- COMMAND…")
    args = parser.parse_args()
    try:
        return _carry_out(args)
    except HostsError as failure:
        print(f"hosts: {failure}", file=sys.stderr)
        return 1


def _carry_out(args: argparse.Namespace) -> int:
    if args.command == "up":
        with alone(state_root(), limit=2):
            for host in bring_up(plugin=not args.no_plugin, setup=args.setup):
                _describe(host)
    elif args.command == "down":
        with alone(state_root(), limit=2):
            bring_down()
    elif args.command == "status":
        for host in attach():
            _describe(host)
    elif args.command == "images":
        for tag, path in built_archives().items():
            print(f"{tag} {path}")
    else:
        return _execute(args.host, args.argv[args.argv[:1] == ["--"] :])
    return 0


def _describe(host: Host) -> None:
    engine = host.engine()
    state = f"dockerd {engine.pid}" if engine else "no engine"
    where = f"DOCKER_HOST=unix://{host.dir}/docker.sock"
    print(f"{host.name} {host.address} init {host.pid}, {state}, {where}")


def _execute(name: str, argv: list[str]) -> int:
    for host in attach():
        if host.name == name:
            return host.popen(argv).wait()
    raise HostsError(f"no host is called {name}")


if __name__ == "__main__":
    sys.exit(main())
