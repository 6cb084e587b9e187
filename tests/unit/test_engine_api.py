"""The connection to an engine that stops in the middle of an answer."""

from __future__ import annotations

import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from docker_livemig import engine_api, images
from livemig.errors import NoDocker

LIMIT = 1  # second
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
VERSION = b'{"ApiVersion": "1.41", "MinAPIVersion": "1.12"}'


class Stalling(socketserver.StreamRequestHandler):
    """Tells its version, and of an image the beginning; then it says no more."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            if b"/version" in line:
                length = b"Content-Length: %d\r\n\r\n" % len(VERSION)
                self.wfile.write(HEAD + length + VERSION)
            else:
                self.wfile.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have an engine that stalls for this host's."""
    place = tmp_path / "engine.sock"
    monkeypatch.setitem(os.environ, "DOCKER_HOST", f"unix://{place}")
    with socketserver.ThreadingUnixStreamServer(str(place), Stalling) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("engine")
def test_an_engine_that_stalls_in_an_answer_is_given_up() -> None:
    spec: Any = type("Spec", (), {"image_id": "sha256:1234", "layers": ()})
    with closing(engine_api.connect(LIMIT)) as api, pytest.raises(NoDocker, match="saving image"):
        list(images.export_missing(api, spec, ()))


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("engine")
def test_an_engine_that_stalls_in_events_that_end_is_given_up() -> None:
    with (
        closing(engine_api.connect(LIMIT)) as api,
        pytest.raises(NoDocker, match="listening"),
        engine_api.translating("listening"),
    ):
        list(api.events(since="1", until="2", decode=True))
