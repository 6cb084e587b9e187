"""Images move by layers: what the target has already is not sent, and no registry is asked.

The target names the layers that it has by chain ID (a layer together with all below it, as the OCI
image specification defines it). The source streams ``docker save`` without the others' content,
which ``docker load`` accepts: it looks into its own store before it opens a layer's file
(image/tarexport/load.go in moby). The image keeps its ID, which is the digest of its configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from docker.errors import APIError, ImageNotFound, NotFound

import docker
from docker_livemig.engine_api import translate_reason, translating
from docker_livemig.tarstream import END, ChunkReader, member
from livemig.errors import (
    DiskFull,
    ImageConflict,
    MachineMismatch,
    StateMismatch,
    TransferError,
)

CHUNK = 1 << 20
_CONFLICT = 409
# ``docker load`` unpacks the tar beside the layers before it registers them.
_ROOM_FACTOR = 2
# What an image of the old format says that says nothing.
_NO_TIME = "1970-01-01T00:00:00Z"
_NO_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


class ImageSpec(Protocol):
    """What is to be known of a container's image: `containers.ContainerSpec` has it."""

    @property
    def image_id(self) -> str:
        """``sha256:`` and the digest of the image's configuration."""

    @property
    def image_tag(self) -> str:
        """The tag that the container was started from and that names the image, or nothing."""

    @property
    def layers(self) -> Sequence[str]:
        """Diff IDs of the layers, lowest first."""

    @property
    def platform(self) -> str:
        """Operating system and architecture, as ``linux/amd64``."""


@dataclass(frozen=True)
class Loaded:
    """What an image's arrival changed on this host, for `remove_loaded` to take back."""

    image_id: str
    new: bool
    tag: str = ""

    def __bool__(self) -> bool:
        return self.new


# What is there


def chain_ids(layers: Iterable[str]) -> list[str]:
    """Return the chain ID of each layer: the digest of the chain below and the layer's own."""
    chains: list[str] = []
    for layer in layers:
        text = f"{chains[-1]} {layer}" if chains else ""
        chains.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else layer)
    return chains


def present_chains(api: docker.APIClient) -> list[str]:
    """Return the chain IDs of all layers that images on this host have."""
    with translating("listing images", TransferError):
        found: set[str] = set()
        for image in {each["Id"] for each in api.images(all=True)}:
            try:
                found.update(chain_ids(_layers(api.inspect_image(image))))
            except ImageNotFound:  # removed meanwhile
                continue
    return sorted(found)


def missing(spec: ImageSpec, chains: Iterable[str]) -> list[str]:
    """Return the diff IDs of the image's layers that a host with these chains lacks."""
    present = set(chains)
    return [
        layer
        for layer, chain in zip(spec.layers, chain_ids(spec.layers), strict=True)
        if chain not in present
    ]


def has(api: docker.APIClient, spec: ImageSpec) -> bool:
    """Tell whether this very image is on this host."""
    return _id_of(api, spec.image_id) == spec.image_id


def check_tag(api: docker.APIClient, spec: ImageSpec) -> None:
    """Raise ImageConflict when the image's tag names another image on this host."""
    found = _id_of(api, spec.image_tag) if spec.image_tag else None
    if found not in (None, spec.image_id):
        host = os.uname().nodename
        raise ImageConflict(
            f"{spec.image_tag} is {short(spec.image_id)} here and {short(str(found))} on {host}",
            hint=f"give the image on {host} another name: `docker tag` and `docker rmi "
            f"{spec.image_tag}`",
        )


def check_platform(api: docker.APIClient, spec: ImageSpec) -> None:
    """Raise MachineMismatch when the image is for another kind of machine than this host."""
    with translating("asking Docker for its version", TransferError):
        version = api.version()
    here = f"{version['Os']}/{version['Arch']}"
    if spec.platform != here:
        raise MachineMismatch(
            f"the image {short(spec.image_id)} is for {spec.platform}, "
            f"and {os.uname().nodename} is {here}"
        )


def required_bytes(api: docker.APIClient, spec: ImageSpec, missing: Sequence[str]) -> int:
    """Return about how many bytes the missing layers have (source)."""
    if not missing:
        return 0
    with translating(f"reading the history of {short(spec.image_id)}", TransferError):
        history = [int(step["Size"]) for step in api.history(spec.image_id)]
    # Newest first; steps without a layer have size 0, as some layers do: never too many bytes.
    filled = [size for size in history if size]
    present = len(spec.layers) - len(missing)
    return sum(filled[: max(len(filled) - present, 0)])


def check_room(api: docker.APIClient, needed: int) -> None:
    """Raise DiskFull when Docker's directory on this host has no room for so many bytes."""
    with translating("asking Docker for its directory", TransferError):
        root = str(api.info()["DockerRootDir"])
    try:
        disk = os.statvfs(root)
    except OSError:
        return  # a daemon elsewhere: docker load will tell
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        raise DiskFull(
            f"{root} on {os.uname().nodename} has {free >> 20} MiB free, "
            f"and {-(-needed >> 20)} MiB are needed",
            hint="make room there: `docker system df` shows what can go",
        )


def room_for(layer_bytes: int) -> int:
    """Return how many free bytes it takes to load layers of that size."""
    return layer_bytes * _ROOM_FACTOR


# Source: what is sent


def export_missing(
    api: docker.APIClient, spec: ImageSpec, missing: Sequence[str]
) -> Iterator[bytes]:
    """Yield a tar for `load` with the image's configuration and the missing layers."""
    with translating(f"saving image {short(spec.image_id)}", TransferError):
        yield from without_layers(api.get_image(spec.image_id, CHUNK), spec, missing)


def without_layers(
    saved: Iterator[bytes], spec: ImageSpec, missing: Sequence[str]
) -> Iterator[bytes]:
    """Yield the stream of ``docker save`` without the content of layers that are not missing.

    TransferError when it turns out to be another image. Layers whose place in the tar is not
    recognised (an engine that we do not know) are left in it, which costs time only.
    """
    places = _places(spec.layers, set(spec.layers) - set(missing))
    seen = False
    with tarfile.open(fileobj=_file(saved), mode="r|", bufsize=CHUNK) as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined] # else it remembers all
            is_layer = info.name.endswith("/layer.tar")
            if info.name in places or (is_layer and not missing):
                continue
            content = _content(tar, info)
            if info.name == "manifest.json":
                manifest = b"".join(content)
                _check_manifest(manifest, spec)
                seen = True
                content = iter([manifest])
            yield from member(info, content)
    if not seen:
        raise TransferError("`docker save` gave an archive without manifest.json")
    yield END


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(info) if info.isreg() else None
    while file and (chunk := file.read(CHUNK)):
        yield chunk


def _places(layers: Sequence[str], wanted: set[str]) -> set[str]:
    """Return the names that the content of these layers may have in the tar."""
    names = {f"blobs/{layer.replace(':', '/')}" for layer in wanted}  # engine 25 and later
    for layer, directory in zip(layers, _legacy_directories(layers), strict=False):
        if layer in wanted:
            names.add(f"{directory}/layer.tar")
    return names


def _legacy_directories(layers: Sequence[str]) -> list[str]:
    """Return the directory of each layer but the top one in the format of Docker 1.10 to 24.

    The name is an ID of the old image format: a digest over what the layer is (CreateID in
    image/v1/imagev1.go of moby) and, for every layer but the top one, over nothing else.
    """
    found = []
    parent: dict[str, str] = {}
    for chain in chain_ids(layers)[:-1]:
        about = {"container_config": _NO_CONFIG, "created": _NO_TIME, "layer_id": chain, **parent}
        text = json.dumps(about, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        found.append(digest)
        parent = {"parent": f"sha256:{digest}"}
    return found


def _check_manifest(manifest: bytes, spec: ImageSpec) -> None:
    try:
        (image,) = json.loads(manifest)
        name = str(image["Config"])
    except (ValueError, KeyError, TypeError) as error:
        raise TransferError(f"`docker save` gave a manifest that is not known: {error}") from error
    digest = name.removeprefix("blobs/sha256/").removesuffix(".json")
    if f"sha256:{digest}" != spec.image_id:
        raise StateMismatch(f"`docker save` gave image {digest[:12]}, not {short(spec.image_id)}")


# Target: what arrives


def expected(api: docker.APIClient, spec: ImageSpec) -> Loaded:
    """Return what `load` or `adopt` will change on this host, for a journal that comes first."""
    tagged = not spec.image_tag or _id_of(api, spec.image_tag) == spec.image_id
    return Loaded(spec.image_id, not has(api, spec), "" if tagged else spec.image_tag)


def load(api: docker.APIClient, chunks: Iterator[bytes], spec: ImageSpec) -> Loaded:
    """Load what `export_missing` yields and set the tag; nothing is left of a load that fails.

    DiskFull, ImageConflict, or StateMismatch when it is not the image that was asked for.
    """
    new = not has(api, spec)
    doing = f"loading image {short(spec.image_id)}"
    try:
        with translating(doing, TransferError):
            for line in api.load_image(chunks):
                if "error" in line:
                    raise translate_reason(str(line["error"]), doing, TransferError)
        if not has(api, spec):
            raise StateMismatch(f"{doing}: Docker made another image of it")
        return Loaded(spec.image_id, new, _set_tag(api, spec))
    except BaseException:
        remove_loaded(api, Loaded(spec.image_id, new))
        raise


def adopt(api: docker.APIClient, spec: ImageSpec) -> Loaded:
    """Set the tag of an image that is here already."""
    return Loaded(spec.image_id, new=False, tag=_set_tag(api, spec))


def remove_loaded(api: docker.APIClient, loaded: Loaded) -> None:
    """Take back what `load` or `adopt` changed, and nothing else; may be called again.

    An image stays that somebody uses by now. So does the tag of an image that had none before:
    Docker would remove the image with it.
    """
    tags = _tags_of(api, loaded.image_id)
    with translating(f"removing image {short(loaded.image_id)}", TransferError):
        if loaded.tag in tags and (loaded.new or len(tags) > 1):
            _remove(api, loaded.tag)
            tags.remove(loaded.tag)
        if loaded.new and not tags:
            _remove(api, loaded.image_id)


def _remove(api: docker.APIClient, name: str) -> None:
    try:
        api.remove_image(name, noprune=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != _CONFLICT:  # a container uses it
            raise


def _set_tag(api: docker.APIClient, spec: ImageSpec) -> str:
    check_tag(api, spec)
    if not spec.image_tag or _id_of(api, spec.image_tag) == spec.image_id:
        return ""
    repository, _, tag = spec.image_tag.rpartition(":")
    with translating(f"tagging {spec.image_tag}", TransferError):
        api.tag(spec.image_id, repository, tag)
    return spec.image_tag


# Names


def tag_of(reference: str, tags: Iterable[str]) -> str:
    """Return which of an image's tags a user's reference to it is, or nothing.

    ``reference`` is what `docker run` was given; ``tags`` are ``RepoTags`` of the image.
    """
    if "@" in reference:
        return ""
    if ":" not in reference.rpartition("/")[2]:
        reference += ":latest"
    for prefix in ("docker.io/library/", "docker.io/", "index.docker.io/library/", "library/", ""):
        if reference.removeprefix(prefix) in tags:
            return reference.removeprefix(prefix)
    return ""


def short(image_id: str) -> str:
    """Return an image's ID as `docker images` shows it."""
    return image_id.removeprefix("sha256:")[:12]


def _layers(image: dict[str, Any]) -> list[str]:
    return list(image.get("RootFS", {}).get("Layers") or [])


def _id_of(api: docker.APIClient, name: str) -> str | None:
    with translating(f"looking for image {name}", TransferError):
        try:
            return str(api.inspect_image(name)["Id"])
        except NotFound:
            return None


def _tags_of(api: docker.APIClient, name: str) -> list[str]:
    with translating(f"looking for image {name}", TransferError):
        try:
            return list(api.inspect_image(name)["RepoTags"] or [])
        except NotFound:
            return []


def _file(chunks: Iterator[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", ChunkReader(chunks))
