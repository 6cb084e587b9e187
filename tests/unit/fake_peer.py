"""A peer that misbehaves on demand, as a program: ``python fake_peer.py BEHAVIOUR [ARGUMENT]``.

It builds its frames by hand from PROTOCOL.md and uses nothing of docker_livemig, so that it can be
wrong in ways that the real one cannot. What it received is written to the file FAKE_PEER_LOG.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from typing import Any

import msgpack  # type: ignore[import-untyped]
import xxhash

HELLO, ERROR, MOVE, PROGRESS, SUMMARY, CANCEL = 1, 2, 10, 11, 12, 13
RECOVER, RECOVERED = 54, 55
RESULTS = ("runs-here", "runs-there")
GREETING = {
    "protocol": 1,
    "version": "0.1.0",
    "role": "peer",
    "host": "fake",
    "cpu_flags": ["fpu"],
}
RESULT = {
    "container": "web",
    "container_id": "f00dfeed" * 8,
    "source": "here",
    "target": "there",
    "mode": "live",
    "rounds": [{"number": 1, "pages": 256, "bytes": 1 << 20, "millis": 1.5}],
    "downtime_ms": 12.5,
    "total_ms": 2345.6,
    "sent_bytes": 3 << 20,
    "notes": ["the address changed from 172.17.0.2 to 172.17.0.3"],
}


def say(kind: int, body: object) -> None:
    """Write one frame."""
    packed = msgpack.packb(body)
    head = struct.pack(">4sBBHIIQ", b"LMIG", 1, kind, 0, len(packed), 0, 0)
    checksum = xxhash.xxh3_64_intdigest(head + packed)
    os.write(1, head[:16] + struct.pack(">Q", checksum) + packed)


def hear() -> tuple[int, Any]:
    """Return type and body of the next frame that is not a PING; (0, None) at end of file."""
    while True:
        head = sys.stdin.buffer.read(24)
        if not head:
            return 0, None
        _, _, kind, _, size, payload, _ = struct.unpack(">4sBBHIIQ", head)
        body = msgpack.unpackb(sys.stdin.buffer.read(size + payload)[:size])
        note({"type": kind, "body": body})
        if kind != 3:
            return kind, body


def note(what: object) -> None:
    """Add a line to the log of this fake."""
    if path := os.environ.get("FAKE_PEER_LOG"):
        with open(path, "a") as file:
            file.write(json.dumps(what) + "\n")


def greet() -> None:
    """Say HELLO and hear one."""
    say(HELLO, GREETING)
    kind, _ = hear()
    assert kind == HELLO


def cancel(*, obey: bool) -> None:
    """Wait for CANCEL; obey it, or go on as one does after the point of no return."""
    greet()
    hear()
    say(PROGRESS, {"phase": "round", "text": "copying", "round": 1, "pages": 5})
    kind, _ = hear()
    if kind != CANCEL:
        note({"eof": True})
    elif obey:
        say(ERROR, {"code": "cancelled", "message": "the move of web was cancelled", "hint": ""})
    else:
        note({"cancel": "ignored"})
        hear()
    note({"end": True})


def move(argument: str) -> None:
    """Carry out a move that goes well, or ends with the error whose code is ``argument``."""
    greet()
    hear()
    say(PROGRESS, {"phase": "prepare", "text": "preparing"})
    for pages in (100, 256):
        figures = {"pages": pages, "bytes": pages << 12, "rate": 5e8, "dirty": 7}
        say(PROGRESS, {"phase": "round", "text": "copying", "round": 1, **figures})
    if argument:
        say(ERROR, {"code": argument, "message": f"it is {argument}", "hint": "do better"})
    else:
        say(SUMMARY, RESULT)


def orphan(result: str) -> None:
    """Die in the midst of a move; asked to recover it, tell that it ended with ``result``.

    Where that is no result, it is the code of the error that stands in the way.
    """
    greet()
    kind, _ = hear()
    if kind == RECOVER and result not in RESULTS:
        say(ERROR, {"code": result, "message": f"it is {result}", "hint": ""})
    elif kind == RECOVER:
        outcome = {"id": "m1", "container": "web", "result": result, "text": "ended"}
        say(RECOVERED, {"host": "fake", "outcomes": [{**outcome, "container_id": "f00d"}]})
    else:
        say(PROGRESS, {"phase": "commit", "text": "committing", "move": "m1"})


def main(behaviour: str, argument: str = "") -> int:
    """Behave; return the exit code."""
    if behaviour == "version":
        say(HELLO, {**GREETING, "protocol": 2, "version": "9.9.9"})
        hear()
        hear()
    elif behaviour == "garbage":
        os.write(1, b"Welcome to fake! You have new mail.\n" * 3)
        hear()
    elif behaviour == "silence":
        time.sleep(60)
    elif behaviour == "exit":
        status, _, text = argument.partition(" ")
        sys.stderr.write(text + "\n")
        return int(status)
    elif behaviour == "bad-hello":
        say(HELLO, {**GREETING, "host": 7})
        hear()
        hear()
    elif behaviour == "refuse":
        say(ERROR, {"code": argument, "message": f"it is {argument}", "hint": ""})
    elif behaviour == "vanish":
        greet()
        hear()
    elif behaviour == "cancel":
        cancel(obey=argument != "ignore")
    elif behaviour == "move":
        move(argument)
    elif behaviour == "orphan":
        orphan(argument)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
