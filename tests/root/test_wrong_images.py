"""What the target does not take of what comes after the pages: it says so, and the source runs on.

Each is what no source sends, or what Docker has made otherwise here; what a mutated session has
(test_hostile.py) is mostly refused before that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from livemig.errors import LivemigError, NotCarried, ProtocolError, StateMismatch
from livemig.incoming import READ_LIMIT
from livemig.model import Descriptor, Image, Opened, Process, Terminal, Typed
from tests.root.apps import App
from tests.root.loopback import Mover

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

Change = Callable[[Image], Image]
ONE_THREAD = "one process with one thread"
TERMINAL = Terminal(b"", b"", exclusive=False, owner=(0, 0), mode=0o620, controlling=True)


def process(image: Image, change: Callable[[Process], Process]) -> Image:
    return replace(image, processes=(change(image.processes[0]),))


def threads(number: int) -> Change:
    return lambda image: process(image, lambda one: replace(one, threads=one.threads * number))


def descriptor(**fields: Any) -> Change:
    """Have the last descriptor be another one."""

    def change(one: Process) -> Process:
        *others, last = one.descriptors
        return replace(one, descriptors=(*others, replace(last, **fields)))

    return lambda image: process(image, change)


def opened(kind: Opened, **fields: Any) -> Change:
    """Have what is open of a kind be something else."""

    def change(image: Image) -> Image:
        found = [each for each in image.descriptions if each.kind is kind]
        assert found
        return replace(
            image,
            descriptions=tuple(
                replace(each, **fields) if each is found[0] else each for each in image.descriptions
            ),
        )

    return change


def crowded(image: Image) -> Image:
    """Have its directory open more often than the kernel passes on at once."""
    files = [each for each in image.descriptions if each.kind is Opened.DIRECTORY][:1] * 254
    first = len(image.descriptions)
    more = tuple(Descriptor(500 + at, first + at, False) for at in range(len(files)))
    return replace(
        process(image, lambda one: replace(one, descriptors=one.descriptors + more)),
        descriptions=(*image.descriptions, *files),
    )


WRONG: dict[str, tuple[Change, type[LivemigError], str]] = {
    "no-process": (lambda image: replace(image, processes=()), ProtocolError, ONE_THREAD),
    "two-processes": (
        lambda image: replace(image, processes=image.processes * 2),
        ProtocolError,
        ONE_THREAD,
    ),
    "no-thread": (threads(0), ProtocolError, ONE_THREAD),
    "two-threads": (threads(2), ProtocolError, ONE_THREAD),
    "a-number-twice": (descriptor(number=0), ProtocolError, "descriptors has one twice"),
    "a-number-below-0": (descriptor(number=-1), ProtocolError, "or one below 0"),
    "a-number-too-high": (descriptor(number=1010), NotCarried, "numbered too high"),
    "too-many-files": (crowded, NotCarried, "too many"),
    "beyond-the-files": (descriptor(description=1000), ProtocolError, "refers to nothing"),
    "before-the-files": (descriptor(description=-1), ProtocolError, "refers to nothing"),
    "a-device-for-a-file": (opened(Opened.FILE, path="/dev/null"), NotCarried, "no regular file"),
    "a-file-for-a-directory": (
        opened(Opened.DIRECTORY, path="/etc/passwd"),
        NotCarried,
        "/etc/passwd is no directory",
    ),
    "another-device": (
        opened(Opened.DEVICE, path="/dev/full"),
        NotCarried,
        "/dev/full is another device",
    ),
    "a-terminal": (
        lambda image: replace(image, terminal=TERMINAL),
        StateMismatch,
        "one of the two containers has a terminal",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_process_that_cannot_be_is_refused(carried: App, move: Mover, name: str) -> None:
    change, error, said = WRONG[name]
    carried.settle()
    moving = move(carried)
    moving.freeze()
    image = moving.state()
    with pytest.raises(error, match=said):
        moving.incoming.rebuild(change(image))
    moving.give_up()
    assert carried.ask("check") == "ok", carried.errors()


def test_a_process_comes_after_its_pages(carried: App, move: Mover) -> None:
    moving = move(carried)
    moving.outgoing.freeze()
    with pytest.raises(ProtocolError, match="came before the layout"):
        moving.incoming.rebuild(moving.state())
    moving.give_up()


def test_what_is_asked_of_a_copy_has_to_fit_it(carried: App, move: Mover) -> None:
    moving = move(carried)
    moving.round()
    for length in (0, -1, READ_LIMIT + 1):
        with pytest.raises(ProtocolError, match=f"{length} bytes were to be compared"):
            moving.incoming.read(0, length)
    with pytest.raises(ProtocolError, match="typed came for a container without a terminal"):
        moving.incoming.put_typed(Typed(partial=b"x"))
    moving.give_up()
