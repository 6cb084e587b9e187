"""python -m tests.vm COMMAND…: the guest with Debian 12, the two machines, their kernels."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tests.hosts import HostsError

from . import Guest, VmError, clone, make, prepare_all, start_bare, start_ready
from .debian import DEMO_LIMIT, state_root
from .kernels import VERSIONS, Kernel, check
from .machines import KERNEL, NAMES, attach, start, stop

TEST_LIMIT = 6 * 3600.0
Arguments = argparse.Namespace
Work = Callable[[Arguments], int | None]


def main() -> int:
    """Carry out the command line."""
    args = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # guests are ended then, too
    work: Work = args.work
    try:
        return work(args) or 0
    except (VmError, HostsError, OSError, subprocess.SubprocessError) as failure:
        print(f"vm: {failure}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(name: str, work: Work, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.set_defaults(work=work)
        return command

    add("prepare", lambda _: prepare_all(), "have in the cache what the tests start from")
    up = add("up", _up, "start the guest with Debian afresh, with a clone of HEAD")
    up.add_argument("--bare", action="store_true", help="as it is before its first make")
    add("clone", lambda _: clone(_running()), "put a fresh clone of HEAD into it")
    add("demo", _demo, "make demo in it")
    add("test", _test, "make test in it")
    execute = add("exec", _exec, "run a command in it, or in vm1 or vm2")
    execute.add_argument("--in", dest="name", choices=NAMES, help="which of the two machines")
    execute.add_argument("argv", nargs=argparse.REMAINDER, help="COMMAND…, or nothing for a shell")
    add("down", lambda _: _debian().remove(), "end it, and forget its disk")
    pair = add("pair", _pair, "start vm1 and vm2")
    pair.add_argument("kernels", nargs="*", default=[KERNEL.name], help="of both, or of each")
    add("pair-down", lambda _: stop(state_root()), "end them, and forget their disks")
    kernel = add("kernel", _kernel, "build a patched kernel, and tell where it is")
    kernel.add_argument("version", choices=VERSIONS)
    kernel.add_argument("configs", nargs="*", help="on top of kernel.config")
    add("kernel-check", _kernel_check, "see that the patches apply")
    return parser


def _debian() -> Guest:
    return Guest(state_root() / "debian")


def _running() -> Guest:
    guest = _debian()
    if not guest.alive():
        raise VmError("the guest is down (make vm-debian-up)")
    return guest


def _up(args: Arguments) -> None:
    begin, guest = time.monotonic(), _debian()
    (start_bare if args.bare else start_ready)(guest)
    clone(guest)
    print(f"guest {guest.name}: up after {time.monotonic() - begin:.0f} s, in {guest.dir}")


def _demo(_: Arguments) -> None:
    make(_running(), "demo", limit=DEMO_LIMIT, show=True)


def _test(_: Arguments) -> None:
    make(_running(), "test", limit=TEST_LIMIT, show=True)


def _exec(args: Arguments) -> int:
    guest = _running() if args.name is None else attach(state_root())[NAMES.index(args.name)]
    return guest.interact(args.argv)


def _pair(args: Arguments) -> None:
    begin = time.monotonic()
    kernels = [Kernel.named(name) for name in args.kernels]
    start(state_root(), (kernels[0], kernels[-1]))
    print(f"{' and '.join(NAMES)}: up after {time.monotonic() - begin:.0f} s, in {state_root()}")


def _kernel(args: Arguments) -> None:
    print(Kernel(args.version, tuple(args.configs)).directory())


def _kernel_check(_: Arguments) -> None:
    for version in VERSIONS:
        print(check(version))


if __name__ == "__main__":
    sys.exit(main())
