"""A plain process that CRIU moves from one machine to the other, as its manual says: what a user of
the same kernel would do without us.

Two pre-dumps that are sent while it runs, the dump, and the restoration on the other side
(criu(8), --track-mem and --prev-images-dir). ssh is logged in already, as ours is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.hosts import RECORDER
from tests.hosts.images import built_archives
from tests.vm import Guest

HOME = "/dev/shm/bench"
PROGRAM = "/usr/local/bin/recorder"
LIMIT = 600.0
FIRST_PID = 20000
"""The other side must have its ID free; nothing of these machines comes near it."""

INSTALL = f"""\
set -e
[ -e {PROGRAM} ] || {{
	id=$(docker create {RECORDER})
	docker cp $id:{PROGRAM} {PROGRAM}
	docker rm $id
}}
command -v criu >/dev/null || {{ apt-get -q update && apt-get -qy install criu; }}
criu --version
"""
START = """\
set -e
rm -rf {home} && mkdir {home} && mkfifo {home}/in && touch {home}/out
echo {first} >/proc/sys/kernel/ns_last_pid
setsid {program} --tick /dev/null --heap {mebibytes} --rewrite fixed <>{home}/in >>{home}/out 2>&1 &
echo $! >{home}/pid
"""
ASK = """\
have=$(wc -l <{home}/out)
echo {line} >{home}/in
tail -n +$((have + 1)) -f {home}/out --pid $$ | grep -m1 gap_us=
"""
MOVE = """\
set -e
cd {home}
pid=$(cat pid)
share='-o ControlMaster=auto -o ControlPath=/run/bench-%h -o ControlPersist=60'
far() {{ ssh $share {target} "$@"; }}
send() {{ tar -c "$@" | far tar -x -C {home}; }}
far 'rm -rf {home} && mkdir {home} && mkfifo {home}/in'
rm -rf 1 2 3 && mkdir 1 2 3
criu pre-dump -t $pid -D 1 --track-mem
send 1
criu pre-dump -t $pid -D 2 --track-mem --prev-images-dir ../1
send 2
criu dump -t $pid -D 3 --track-mem --prev-images-dir ../2 --manage-cgroups=ignore
send 3 out pid
far criu restore -d -D {home}/3 --manage-cgroups=ignore
"""
END = f"[ ! -e {HOME}/pid ] || kill -9 $(cat {HOME}/pid); rm -rf {HOME}"


def install(guest: Guest) -> str:
    """Have the recorder, and Debian's CRIU, in a machine; returns which it is."""
    guest.run("docker load", input=built_archives()[RECORDER].read_bytes(), timeout=LIMIT)
    return guest.run(INSTALL, timeout=LIMIT).stdout.splitlines()[-1]


@contextmanager
def recorder(pair: tuple[Guest, Guest], mebibytes: int) -> Iterator[None]:
    """Run it in the first machine, ticking, until the scope ends."""
    words = {"home": HOME, "first": FIRST_PID, "program": PROGRAM, "mebibytes": mebibytes}
    pair[0].run(START.format(**words), timeout=LIMIT)
    try:
        yield
    finally:
        for guest in pair:
            guest.run(END, check=False)


def trip(source: Guest, target: Guest) -> float:
    """Move it, and return the largest gap between its ticks, in ms."""
    _ask(source, "-1")
    source.run(MOVE.format(home=HOME, target=target.name), timeout=LIMIT)
    report = _ask(target, "0")
    if "heap=intact" not in report:
        raise AssertionError(f"CRIU damaged the recorder's memory: {report}")
    return int(report.split("gap_us=")[1].split()[0]) / 1000


def _ask(guest: Guest, line: str) -> str:
    return guest.run(ASK.format(home=HOME, line=line), timeout=LIMIT).stdout
