"""Images by layers, with archives that are made up."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from docker.errors import ImageNotFound

from docker_livemig import images, tarstream
from livemig.errors import DiskFull, ImageConflict, MachineMismatch, StateMismatch, TransferError

LAYERS = [f"sha256:{hashlib.sha256(bytes([n])).hexdigest()}" for n in range(3)]
ID = "sha256:" + "1d" * 32


@dataclass(frozen=True)
class Spec:
    image_id: str = ID
    image_tag: str = "recorder:1"
    layers: tuple[str, ...] = tuple(LAYERS)
    platform: str = "linux/amd64"


SPEC = Spec()


def archive(files: dict[str, bytes]) -> Iterator[bytes]:
    """A tar in awkward chunks."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = buffer.getvalue()
    return (whole[at : at + 700] for at in range(0, len(whole), 700))


def names_in(chunks: Iterator[bytes]) -> dict[str, int]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        return {info.name: info.size for info in tar}


def legacy() -> Iterator[bytes]:
    directories = [*images._legacy_directories(LAYERS), "70" * 32]
    files = {}
    for directory in directories:
        files[f"{directory}/json"] = b"{}"
        files[f"{directory}/layer.tar"] = b"x" * 3000
    files[f"{ID[7:]}.json"] = b"{}"
    manifest = [{"Config": f"{ID[7:]}.json", "Layers": [f"{d}/layer.tar" for d in directories]}]
    files["manifest.json"] = json.dumps(manifest).encode()
    return archive(files)


def oci() -> Iterator[bytes]:
    files = {layer.replace("sha256:", "blobs/sha256/"): b"x" * 3000 for layer in LAYERS}
    files |= {f"blobs/sha256/{ID[7:]}": b"{}", "index.json": b"{}", "oci-layout": b"{}"}
    files["manifest.json"] = json.dumps([{"Config": f"blobs/sha256/{ID[7:]}"}]).encode()
    return archive(files)


def test_a_chain_is_the_digest_of_what_is_below_and_the_layer() -> None:
    # Worked out by hand after the OCI image specification, "Layer ChainID".
    a, b, c = LAYERS
    ab = "sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest()
    abc = "sha256:" + hashlib.sha256(f"{ab} {c}".encode()).hexdigest()
    assert images.chain_ids(LAYERS) == [a, ab, abc]
    assert images.chain_ids([]) == []


def test_missing_is_what_no_chain_covers() -> None:
    chains = images.chain_ids(LAYERS)
    assert images.missing(SPEC, []) == LAYERS
    assert images.missing(SPEC, chains[:2]) == LAYERS[2:]
    assert images.missing(SPEC, chains) == []
    # The same layer on another one below is another chain.
    assert images.missing(SPEC, LAYERS[1:]) == LAYERS


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("make", [legacy, oci])
def test_only_missing_layers_are_sent(make: Any, count: int) -> None:
    sent = names_in(images.without_layers(make(), SPEC, LAYERS[3 - count :]))
    assert sum(size == 3000 for size in sent.values()) == count
    assert set(names_in(make())) - set(sent) <= {n for n, size in names_in(make()).items() if size}
    assert "manifest.json" in sent


def test_a_layer_that_is_there_twice_is_sent_when_one_place_lacks_it() -> None:
    twice = Spec(layers=(LAYERS[0], LAYERS[1], LAYERS[0]))
    directories = images._legacy_directories(twice.layers)
    files = {f"{directory}/layer.tar": b"x" for directory in directories}
    files["manifest.json"] = json.dumps([{"Config": f"{ID[7:]}.json"}]).encode()
    sent = names_in(images.without_layers(archive(files), twice, [LAYERS[0]]))
    assert f"{directories[0]}/layer.tar" in sent
    assert f"{directories[1]}/layer.tar" not in sent


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        ([{"Config": "ab" * 32 + ".json"}], StateMismatch),
        ([], TransferError),
        ({"Config": 1}, TransferError),
        (None, TransferError),
    ],
)
def test_another_image_is_not_sent(manifest: object, error: type[Exception]) -> None:
    files = {} if manifest is None else {"manifest.json": json.dumps(manifest).encode()}
    with pytest.raises(error, match="docker save"):
        b"".join(images.without_layers(archive(files), SPEC, LAYERS))


@pytest.mark.parametrize(
    ("reference", "tags", "tag"),
    [
        ("recorder", ["recorder:latest"], "recorder:latest"),
        ("recorder:1", ["recorder:latest", "recorder:1"], "recorder:1"),
        ("recorder:1", ["recorder:2"], ""),
        ("docker.io/library/debian", ["debian:latest"], "debian:latest"),
        ("docker.io/me/app:3", ["me/app:3"], "me/app:3"),
        ("localhost:5000/app", ["localhost:5000/app:latest"], "localhost:5000/app:latest"),
        ("1d1d1d1d1d1d", ["recorder:1"], ""),
        (ID, ["recorder:1"], ""),
        ("app@sha256:" + "00" * 32, ["app:latest"], ""),
    ],
)
def test_a_tag_counts_when_it_names_the_image(reference: str, tags: list[str], tag: str) -> None:
    assert images.tag_of(reference, tags) == tag


def test_content_has_the_size_that_the_header_says() -> None:
    info = tarfile.TarInfo("f")
    info.size = 1000
    for content in ([b"a" * 400, b"b" * 900], [b"a" * 10], []):
        whole = b"".join(tarstream.member(info, content))
        assert len(whole) == 512 + 1024
        assert whole[512:1512] == b"".join(content)[:1000].ljust(1000, b"\0")


class FakeApi:
    """An engine that has the images it is given, and answers `load` as told."""

    def __init__(self, tags: dict[str, str], answer: list[dict[str, Any]] | None = None) -> None:
        self.tags = tags
        self.answer = answer or []
        self.removed: list[str] = []

    def inspect_image(self, name: str) -> dict[str, Any]:
        image = self.tags.get(name, name if name in self.tags.values() else None)
        if image is None:
            raise ImageNotFound("no such image")
        return {"Id": image, "RepoTags": [t for t, i in self.tags.items() if i == image]}

    def load_image(self, chunks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
        b"".join(chunks)
        return iter(self.answer)

    def remove_image(self, name: str, noprune: bool) -> None:
        assert noprune
        self.removed.append(name)

    def version(self) -> dict[str, str]:
        return {"Os": "linux", "Arch": "arm64"}


def test_a_full_disk_while_loading_has_its_own_error() -> None:
    api = FakeApi({}, [{"error": "write /var/lib/docker/tmp/x: no space left on device"}])
    with pytest.raises(DiskFull, match="no space left"):
        images.load(api, iter([b"x"]), SPEC)


def test_a_load_that_makes_no_image_is_an_error() -> None:
    with pytest.raises(StateMismatch, match="another image"):
        images.load(FakeApi({}, [{"stream": "Loaded"}]), iter([b"x"]), SPEC)


def test_a_tag_of_another_image_is_a_conflict_that_names_both() -> None:
    other = "sha256:" + "2e" * 32
    with pytest.raises(ImageConflict, match=r"recorder:1 is 1d1d1d1d1d1d here and 2e2e2e2e2e2e"):
        images.check_tag(FakeApi({"recorder:1": other}), SPEC)
    images.check_tag(FakeApi({"recorder:1": ID}), SPEC)
    images.check_tag(FakeApi({}), SPEC)


def test_taking_back_removes_what_came_and_no_more() -> None:
    mine, others = "recorder:1", "other:2"
    for tags, loaded, removed in (
        ({mine: ID}, images.Loaded(ID, new=True, tag=mine), [mine, ID]),
        ({mine: ID, others: ID}, images.Loaded(ID, new=True, tag=mine), [mine]),
        ({mine: ID, others: ID}, images.Loaded(ID, new=False, tag=mine), [mine]),
        ({mine: ID}, images.Loaded(ID, new=False, tag=mine), []),
        ({mine: ID}, images.Loaded(ID, new=False), []),
        ({mine: "sha256:other"}, images.Loaded(ID, new=True, tag=mine), [ID]),
    ):
        api = FakeApi(tags)
        images.remove_loaded(api, loaded)
        assert api.removed == removed


def test_an_image_for_another_machine_is_refused() -> None:
    with pytest.raises(MachineMismatch, match=r"for linux/amd64, .* linux/arm64"):
        images.check_platform(FakeApi({}), SPEC)
