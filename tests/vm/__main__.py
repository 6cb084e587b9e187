"""python -m tests.vm COMMAND…: the guest with Debian 12."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from . import Guest, VmError, clone, make, prepare, start_bare, start_ready
from .debian import DEMO_LIMIT, state_root

TEST_LIMIT = 6 * 3600.0


def main() -> int:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the guest afresh, with a clone of HEAD")
    up.add_argument("--bare", action="store_true", help="as it is before its first make")
    commands.add_parser("prepare", help="have it in the cache as the tests want it")
    commands.add_parser("clone", help="put a fresh clone of HEAD into the one that runs")
    commands.add_parser("demo", help="make demo in it")
    commands.add_parser("test", help="make test in it")
    execute = commands.add_parser("exec", help="run a command in it")
    execute.add_argument("argv", nargs=argparse.REMAINDER, help="COMMAND…, or nothing for a shell")
    commands.add_parser("down", help="end it, and forget its disk")
    args = parser.parse_args()
    try:
        return _carry_out(Guest(state_root() / "debian"), args)
    except (VmError, OSError, subprocess.SubprocessError) as failure:
        print(f"vm: {failure}", file=sys.stderr)
        return 1


def _carry_out(guest: Guest, args: argparse.Namespace) -> int:
    if args.command == "down":
        guest.remove()
    elif args.command == "prepare":
        print(prepare())
    elif args.command == "up":
        begin = time.monotonic()
        (start_bare if args.bare else start_ready)(guest)
        clone(guest)
        print(f"guest {guest.name}: up after {time.monotonic() - begin:.0f} s, in {guest.dir}")
    elif not guest.alive():
        raise VmError("the guest is down (make vm-debian)")
    elif args.command == "clone":
        clone(guest)
    elif args.command == "exec":
        return guest.interact(args.argv)
    else:
        limit = DEMO_LIMIT if args.command == "demo" else TEST_LIMIT
        make(guest, args.command, limit=limit, show=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
