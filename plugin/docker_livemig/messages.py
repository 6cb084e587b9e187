"""Bodies of the frames between the two peers; PROTOCOL.md tells their order."""

from __future__ import annotations

from dataclasses import dataclass, field

import xxhash

from docker_livemig.containers import ContainerSpec
from docker_livemig.requests import Force, Mode
from livemig.frames import Body, pack
from livemig.model import Image, LayoutChoice, Typed


@dataclass(frozen=True)
class Prepare:
    """PREPARE: which container comes, and how; ``layout`` is what shall lay its memory out.

    ``vdso`` is the code that the source's kernel maps into every process, ``seccomp`` the digest of
    the container's profile, empty without one. ``source`` and ``machine`` are the source's node
    name and machine-id(5).
    """

    move_id: str
    source: str
    mode: Mode
    container: ContainerSpec
    file_bytes: int
    vdso: bytes
    seccomp: bytes
    layout: LayoutChoice = "auto"
    machine: str = ""


@dataclass(frozen=True)
class Prepared:
    """PREPARED: the chain IDs of the image layers that the target has.

    ``foreign`` tells that its kernel maps another vDSO, within which no thread may be stopped;
    ``image`` that it has the very image, of which nothing needs to be sent.
    """

    chains: tuple[str, ...]
    foreign: bool = False
    image: bool = False


@dataclass(frozen=True)
class ImageLayers:
    """The first IMAGE: the diff IDs of the layers that come, of about so many bytes."""

    missing: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Created:
    """CREATED: the held container on the target."""

    container_id: str


@dataclass(frozen=True)
class PageDigest:
    """What pages [start, end) of a process must hold: xxh3_64 of their bytes."""

    pid: int
    start: int
    end: int
    digest: int


@dataclass(frozen=True)
class State:
    """STATE: everything but the pages of the frozen container, and digests where asked for."""

    image: Image
    digests: tuple[PageDigest, ...] = ()


@dataclass(frozen=True)
class Ready:
    """READY: the target holds all of it; ``state`` is the digest of the STATE that it built.

    ``layout`` is what laid the memory out, ``passed_over`` why the device did not, where there is
    one.
    """

    state: int
    layout: str = ""
    passed_over: str = ""


@dataclass(frozen=True)
class Commit:
    """COMMIT: what was typed on the container's terminal until now, where it has one."""

    typed: Typed | None = None


@dataclass(frozen=True)
class Resume:
    """RESUME: the move that a new connection is for."""

    move_id: str


@dataclass(frozen=True)
class Settle:
    """SETTLE: the target of a move asks its source for the decision."""

    move_id: str
    force: Force = ""


@dataclass(frozen=True)
class Status:
    """STATUS: where the target stands: "ready", "running", "lost", "unknown" or "busy"."""

    state: str
    container_id: str = ""


@dataclass(frozen=True)
class Running:
    """RUNNING: the container runs on the target."""

    container_id: str


@dataclass(frozen=True)
class Finish:
    """FINISH: the source's container is gone, and what Docker told it when it had left.

    ``stop``: to end. ``restart``: to end and begin again.
    """

    stop: bool = False
    restart: bool = False


@dataclass(frozen=True)
class Finished:
    """FINISHED: Docker on the target knows all; ``notes`` are for the summary."""

    notes: tuple[str, ...] = field(default=())


def state_digest(body: Body) -> int:
    """Return the digest (xxh3_64) of a STATE's body, which both sides must agree on."""
    return int(xxhash.xxh3_64_intdigest(pack(body)))
