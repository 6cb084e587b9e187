"""The raw streams of Docker's API: standard streams of a container, and events.

docker.APIClient.attach_socket loses what arrives together with the answer's header, so the few
lines of HTTP that this takes are here.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections import deque
from types import TracebackType
from urllib.parse import quote, urlencode

from tests import pace

HEADER = struct.Struct(">BxxxL")
STDOUT = 1


class ClosedError(ConnectionError):
    """The stream has ended: the container is gone from there, or its engine is."""


class Attachment:
    """Standard input and output of a running container, in lines."""

    def __init__(self, path: str, container: str, timeout: float = 10.0) -> None:
        query = urlencode({"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1})
        self._socket, self._raw = _request(
            path, f"POST /containers/{quote(container)}/attach?{query}", timeout
        )
        self._text = b""
        self._lines: deque[str] = deque()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, line: str) -> None:
        """Type a line."""
        try:
            self._socket.sendall(f"{line}\n".encode())
        except (BrokenPipeError, ConnectionResetError):
            raise ClosedError from None

    def line(self, timeout: float) -> str:
        """Return the next line of standard output; TimeoutError, or ClosedError at the end."""
        deadline = time.monotonic() + pace.limit(timeout)
        while not self._lines:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise ClosedError
            self._raw += data
            self._sort()
        return self._lines.popleft()

    def _sort(self) -> None:
        """Take the multiplexed stream apart ("Attach to a container" in Docker's API)."""
        while len(self._raw) >= HEADER.size:
            stream, size = HEADER.unpack_from(self._raw)
            if len(self._raw) < HEADER.size + size:
                return
            if stream == STDOUT:
                self._text += self._raw[HEADER.size : HEADER.size + size]
            self._raw = self._raw[HEADER.size + size :]
        *lines, self._text = self._text.split(b"\n")
        self._lines.extend(line.decode(errors="replace") for line in lines)

    def interrupt(self) -> None:
        """Have whoever waits for a line get ClosedError; may be called from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave; the container does not notice."""
        self._socket.close()


class Events:
    """Says that something happened to a container; what, is left to `docker inspect`."""

    def __init__(self, path: str, container: str, timeout: float = 10.0) -> None:
        query = urlencode({"filters": json.dumps({"container": [container]})})
        self._socket, _ = _request(path, f"GET /events?{query}", timeout)

    def fileno(self) -> int:
        """Readable when something happened."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take note; ClosedError when the engine has gone."""
        if not self._socket.recv(65536):
            raise ClosedError

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _request(path: str, request: str, timeout: float) -> tuple[socket.socket, bytes]:
    """Send it, and return the connection after the answer's header with what came behind that."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(pace.limit(timeout))
    try:
        connection.connect(path)
        header = "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0"
        connection.sendall(f"{request} HTTP/1.1\r\n{header}\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = connection.recv(4096)
            if not more:
                raise ClosedError(f"{request}: no answer")
            answer += more
    except BaseException:
        connection.close()
        raise
    head, rest = answer.split(b"\r\n\r\n", 1)
    if head.split()[1] not in (b"101", b"200"):
        connection.close()
        raise ClosedError(f"{request}: {head.splitlines()[0].decode()} {rest.decode()}")
    return connection, rest
