"""An image that goes from host to host without a registry."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import docker
from docker_livemig import images
from docker_livemig.engine_api import connect
from livemig.errors import DiskFull, ImageConflict, LivemigError, TransferError
from tests.conftest import NothingLeft
from tests.docker.inside import inside
from tests.hosts import BASE, Host, load_images

pytestmark = pytest.mark.docker
Pair = tuple[Host, Host]
Apis = tuple[docker.APIClient, docker.APIClient]
LAYERED = "layered:1"
DOCKERFILE = """
FROM {}
RUN echo one >/one
RUN true
ENV TWO=2
RUN echo three >/three
CMD ["cat", "/one", "/three"]
"""


@dataclass(frozen=True)
class Spec:
    image_id: str
    image_tag: str
    layers: tuple[str, ...]
    platform: str


@pytest.fixture(scope="module")
def layered(hosts: Pair) -> Iterator[Spec]:
    """An image of several layers in the first host."""
    a, _ = hosts
    load_images(a, BASE)
    build = ["docker", "build", "-q", "--network", "none", "-t", LAYERED, "-"]
    a.run(build, input=DOCKERFILE.format(BASE), env={"DOCKER_BUILDKIT": "0"}, timeout=120)
    api = a.api()
    found = api.inspect_image(LAYERED)
    api.close()
    layers = tuple(found["RootFS"]["Layers"])
    assert len(layers) == 3
    yield Spec(found["Id"], LAYERED, layers, f"{found['Os']}/{found['Architecture']}")
    a.run(["docker", "rmi", LAYERED])


@pytest.fixture
def apis(hosts: Pair, nothing_left: NothingLeft) -> Iterator[Apis]:
    """Both engines; the second one is as before afterwards."""
    clients = hosts[0].api(), hosts[1].api()
    yield clients
    for client in clients:
        client.close()
    nothing_left.check()


def moved(apis: Apis, spec: Spec) -> tuple[images.Loaded, int]:
    """Move an image as the two sides do; return what came and how many bytes that took."""
    a, b = apis
    missing = images.missing(spec, images.present_chains(b))
    images.check_tag(b, spec)
    images.check_platform(b, spec)
    images.check_room(b, images.room_for(images.required_bytes(a, spec, missing)))
    sent = list(images.export_missing(a, spec, missing))
    return images.load(b, iter(sent), spec), sum(map(len, sent))


def test_it_arrives_with_its_id_and_tag_and_runs(hosts: Pair, apis: Apis, layered: Spec) -> None:
    _, b = apis
    loaded, _ = moved(apis, layered)
    try:
        assert loaded == images.Loaded(layered.image_id, new=True, tag=LAYERED)
        assert b.inspect_image(LAYERED)["Id"] == layered.image_id
        out = hosts[1].run(["docker", "run", "--rm", LAYERED]).stdout
        assert out == "one\nthree\n"
        assert images.missing(layered, images.present_chains(b)) == []
        assert images.has(b, layered)
    finally:
        images.remove_loaded(b, loaded)
        images.remove_loaded(b, loaded)
    assert not images.has(b, layered)


def test_layers_that_are_there_are_not_sent(hosts: Pair, apis: Apis, layered: Spec) -> None:
    a, b = apis
    load_images(hosts[1], BASE)
    try:
        missing = images.missing(layered, images.present_chains(b))
        assert missing == list(layered.layers[1:])
        assert images.required_bytes(a, layered, missing) == len("one\n") + len("three\n")
        loaded, sent = moved(apis, layered)
        assert sent < 50_000
        assert hosts[1].run(["docker", "run", "--rm", LAYERED]).stdout == "one\nthree\n"
        images.remove_loaded(b, loaded)
        assert b.inspect_image(BASE)["RepoTags"] == [BASE]
    finally:
        hosts[1].run(["docker", "rmi", BASE])


@pytest.mark.parametrize("count", range(4))
def test_the_archive_holds_the_missing_layers_and_no_other(
    apis: Apis, layered: Spec, count: int
) -> None:
    missing = layered.layers[3 - count :]
    sent = b"".join(images.export_missing(apis[0], layered, missing))
    with tarfile.open(fileobj=io.BytesIO(sent)) as tar:
        names = [info.name for info in tar if info.name.endswith("/layer.tar")]
        blobs = {layer.replace("sha256:", "blobs/sha256/") for layer in layered.layers}
        assert len(names) + len(blobs & set(tar.getnames())) == count


def test_an_image_that_is_there_under_another_name_gets_its_tag(apis: Apis, layered: Spec) -> None:
    a, _ = apis
    again = Spec(layered.image_id, "other:2", layered.layers, layered.platform)
    adopted = images.adopt(a, again)
    assert adopted == images.Loaded(layered.image_id, new=False, tag="other:2")
    assert sorted(a.inspect_image(LAYERED)["RepoTags"]) == sorted([LAYERED, "other:2"])
    images.remove_loaded(a, adopted)
    assert a.inspect_image(LAYERED)["RepoTags"] == [LAYERED]


def test_a_tag_that_names_another_image_there(hosts: Pair, apis: Apis, layered: Spec) -> None:
    _, b = apis
    load_images(hosts[1], BASE)
    b.tag(BASE, "layered", "1")
    try:
        with pytest.raises(ImageConflict, match=r"layered:1 is \w{12} here and \w{12} on "):
            images.check_tag(b, layered)
    finally:
        hosts[1].run(["docker", "rmi", LAYERED, BASE])


def test_nothing_is_left_of_a_load_that_breaks_off(apis: Apis, layered: Spec) -> None:
    a, b = apis
    sent = list(images.export_missing(a, layered, layered.layers))

    def broken() -> Iterator[bytes]:
        yield from sent[: len(sent) // 2]
        raise LivemigError("link lost")

    with pytest.raises(LivemigError, match="link lost"):
        images.load(b, broken(), layered)
    with pytest.raises(TransferError, match="loading image"):
        images.load(b, iter([b"".join(sent)[:5000]]), layered)
    with pytest.raises(TransferError, match="loading image"):
        images.load(b, iter([b"garbage" * 1000]), layered)
    assert not images.has(b, layered)


def test_an_image_that_somebody_uses_by_now_stays(hosts: Pair, apis: Apis, layered: Spec) -> None:
    _, b = apis
    loaded, _ = moved(apis, layered)
    hosts[1].run(["docker", "create", "--name", "user", LAYERED])
    images.remove_loaded(b, loaded)
    assert images.has(b, layered)
    hosts[1].run(["docker", "rm", "user"])
    images.remove_loaded(b, loaded)
    assert not images.has(b, layered)


def test_no_room_is_said_before_anything_is_sent(hosts: Pair) -> None:
    with pytest.raises(DiskFull, match=r"/var/lib/docker on .* MiB free, and 1125899906842624 MiB"):
        inside(hosts[1], require_room, 1 << 70)


def require_room(size: int) -> None:
    images.check_room(connect(), size)
