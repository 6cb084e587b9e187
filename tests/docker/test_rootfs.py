"""The files of a running container, copied into a held one and again when frozen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from docker_livemig import containers, engine_api, lifecycle, making, rootfs, setup
from docker_livemig.containers import ContainerSpec
from docker_livemig.rootfs import Manifest
from tests.conftest import NothingLeft
from tests.docker.inside import inside
from tests.hosts import Host

pytestmark = pytest.mark.docker
Pair = tuple[Host, Host]
CHANGES = """
set -e
mkdir -p /data/deep/er; echo one >/data/deep/er/file; ln /data/deep/er/file /data/link
ln -s /data/deep /data/soft; mkfifo /data/fifo; chmod 4711 /bin/busybox
rm -r /var/tmp; rm /etc/group; mkdir /var/tmp; echo x >/var/tmp/new; rm -r /root
"""
MORE_CHANGES = """
set -e
echo two >>/data/link; rm /data/fifo; mv /data/deep /data/moved; rm -r /var/tmp; mkdir /root
dd if=/dev/zero of=/data/big bs=1M count=20 2>/dev/null
"""


@pytest.fixture(scope="module")
def host(hosts: Pair, recorder_image: str) -> Iterator[Host]:
    """A host with the runtime and the image: both containers are on it."""
    assert recorder_image
    one = hosts[0]
    api = one.api()
    registered = "livemig-runc" in api.info()["Runtimes"]
    api.close()
    inside(one, setup.run)
    yield one
    inside(one, setup.run, undo=not registered)


@pytest.fixture(autouse=True)
def _clean(host: Host, nothing_left: NothingLeft) -> Iterator[None]:
    yield
    for ident in host.run(["docker", "ps", "-aq", "--no-trunc"]).stdout.split():
        inside(host, remove, ident)
    nothing_left.check()


def describe(name: str) -> ContainerSpec:
    return containers.describe(engine_api.connect(), name)


def make_held(spec: ContainerSpec) -> int:
    api = engine_api.connect()
    return making.start_held(api, making.create(api, spec), spec)


def remove(ident: str) -> None:
    lifecycle.remove(engine_api.connect(), ident)


def first_pass(spec: ContainerSpec, pid: int) -> Manifest:
    found = rootfs.scan(spec.upper_dir)
    rootfs.apply(pid, rootfs.pack(spec.upper_dir, rootfs.everything(found), settle=True))
    return found


def second_pass(spec: ContainerSpec, pid: int, seen: Manifest) -> list[str]:
    paths = rootfs.changed(seen, rootfs.scan(spec.upper_dir, seen))
    rootfs.apply(pid, rootfs.pack(spec.upper_dir, paths))
    return paths


def listing(host: Host, name: str) -> dict[str, str]:
    """All files of a container but those that Docker made for it alone."""
    graph = json.loads(host.run(["docker", "inspect", "-f", "{{json .GraphDriver}}", name]).stdout)
    init = host.path(graph["Data"]["LowerDir"].split(":")[0])
    assert init.parent.name.endswith("-init")
    made = {str(path.relative_to(init)) for path in init.rglob("*")} | {"."}
    found = inside(host, rootfs.listing, graph["Data"]["MergedDir"])
    return {path: line for path, line in found.items() if path not in made}


def test_both_passes_and_the_trees_are_the_same(host: Host, recorder_image: str) -> None:
    host.run(["docker", "run", "-d", "-i", "--name", "one", recorder_image])
    host.run(["docker", "exec", "one", "sh", "-c", CHANGES])
    spec = replace(inside(host, describe, "one"), name="other")
    pid = inside(host, make_held, spec)
    seen = inside(host, first_pass, spec, pid)
    assert listing(host, "other") == listing(host, "one")
    host.run(["docker", "exec", "one", "sh", "-c", MORE_CHANGES])
    for name in ("one", "other"):
        host.run(["docker", "pause", name])
    paths = inside(host, second_pass, spec, pid, seen)
    assert "data/big" in paths
    assert "etc/.wh.group" not in paths
    assert listing(host, "other") == listing(host, "one")
    changes = [host.run(["docker", "diff", name]).stdout for name in ("one", "other")]
    assert sorted(changes[0].split("\n")) == sorted(changes[1].split("\n"))


def test_a_link_of_the_container_leads_nowhere(host: Host, recorder_image: str) -> None:
    host.run(["docker", "run", "-d", "-i", "--name", "one", recorder_image])
    host.run(["docker", "exec", "one", "sh", "-c", "mkdir /data; echo x >/data/mark"])
    spec = replace(inside(host, describe, "one"), name="other")
    pid = inside(host, make_held, spec)
    root = f"/proc/{host.outer_pid(pid)}/root"
    os.symlink("/tmp", f"{root}/data")
    inside(host, first_pass, spec, pid)
    assert not host.path("/tmp/mark").exists()
    assert os.listdir(f"{root}/data") == ["mark"]
