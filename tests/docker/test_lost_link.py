"""The connection is lost at the worst moments: one copy runs, and nothing typed is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker_livemig.exits import exit_code
from livemig.errors import LinkLost
from livemig.frames import FrameType
from tests.conftest import NothingLeft
from tests.docker import cutter
from tests.docker.moves import Pair, set_up, try_move, wrapped
from tests.hosts import Host
from tests.typist import Typist

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

NAME = "cut-off"


@pytest.fixture
def pair(hosts: Pair, recorder_image: str, nothing_left: NothingLeft) -> Iterator[Pair]:
    set_up(hosts)
    nothing_left.ignore("images")
    hosts[0].run(["docker", "run", "-d", "-i", "--name", NAME, recorder_image])
    with wrapped(hosts[1], cutter):
        yield hosts
    hosts[1].path(str(cutter.PLAN)).unlink(missing_ok=True)
    for host in hosts:
        host.run(["docker", "rm", "-f", NAME], check=False)


def plan(host: Host, *kinds: FrameType) -> None:
    host.path(str(cutter.PLAN)).write_text("\n".join(str(int(kind)) for kind in kinds))


def cut_happened(host: Host) -> bool:
    return not host.path(str(cutter.PLAN)).exists()


def running(host: Host) -> bool:
    return host.run(["docker", "ps", "-q", "--filter", f"name={NAME}"]).stdout != ""


CUTS = [
    (FrameType.COMMIT,),
    (FrameType.RUNNING,),
    (FrameType.FINISH,),
    (FrameType.COMMIT, FrameType.COMMIT, FrameType.RUNNING),
    (FrameType.FINISH, FrameType.FINISHED),
]


@pytest.mark.parametrize("kinds", CUTS, ids=lambda kinds: "-".join(kind.name for kind in kinds))
def test_a_committed_move_is_brought_to_its_end(pair: Pair, kinds: tuple[FrameType, ...]) -> None:
    source, target = pair
    with Typist(pair, NAME, every=0.002) as typist:
        typist.wait_for(20)
        plan(target, *kinds)
        result = try_move(source, NAME, target.name)
        assert result.returncode == 0, result.stderr
        assert cut_happened(target)
        typist.wait_for(20)
        typist.verify()
        assert typist.host is target
    assert not running(source)


@pytest.mark.parametrize(
    "kind",
    [FrameType.CREATED, FrameType.ROUND_DONE, FrameType.STATE, FrameType.READY],
)
def test_a_move_that_was_not_committed_is_undone(
    pair: Pair, kind: FrameType, nothing_left: NothingLeft
) -> None:
    source, target = pair
    with Typist(pair, NAME, every=0.002) as typist:
        typist.wait_for(20)
        plan(target, kind)
        result = try_move(source, NAME, target.name)
        assert result.returncode == exit_code(LinkLost("")), result.stderr
        assert cut_happened(target)
        typist.wait_for(20)
        typist.verify()
        assert typist.moves == 0
    # The target learns of it by itself, and cleans itself in its own time.
    source.run(["docker", "rm", "-f", NAME])
    nothing_left.check()
