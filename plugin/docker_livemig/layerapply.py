"""Applies a tar of `layertar` to the files of a running or frozen container."""

from __future__ import annotations

import fcntl
import json
import os
import resource
from collections.abc import Iterator

from docker_livemig.layertar import CHUNK
from docker_livemig.unpack import Unpacking
from livemig.errors import InternalError, LivemigError, from_wire
from livemig.system.mounts import enter_writable_copy, read_mounts

_ROOM = 256 << 20  # bytes that the child may take beside what its parent had


class Writing:
    """The child that has laid a tar over a container's files, and writes them back until it ends.

    DiskFull, or TargetError that names the path and the reason, where it could not.
    """

    def __init__(self, child: int, results: int) -> None:
        self._child = child
        self._results = os.fdopen(results, "rb")

    def hear(self) -> None:
        """Wait until the child has done its next part; raises what stood in the way."""
        if not (answer := self._results.readline()):
            raise InternalError("the process that writes the container's files died")
        if failure := json.loads(answer):
            raise from_wire(failure)

    def finish(self) -> None:
        """Wait until all is on the disk; may be called again."""
        if not self._results.closed:
            try:
                self.hear()
            finally:
                self.close()

    def close(self) -> None:
        """Wait for the child's end, whatever comes of it."""
        if not self._results.closed:
            self._results.close()
            os.waitpid(self._child, 0)


def apply(root_pid: int, chunks: Iterator[bytes]) -> None:
    """Lay a tar over the files of the container that process ``root_pid`` is in.

    When this returns it is on the disk, with all that the file system has, the image for one: the
    source's files are removed in the end. The container may be frozen. A child confined to the
    container's root does it, so that no symbolic link leads out. What is hidden under a mount of
    the container is left out. DiskFull, or TargetError that names the path and the reason.
    """
    _lay(root_pid, chunks, frozen=False).finish()


def apply_frozen(root_pid: int, chunks: Iterator[bytes]) -> Writing:
    """Do the same while the source is frozen and waits; what came is written back meanwhile."""
    return _lay(root_pid, chunks, frozen=True)


def _lay(root_pid: int, chunks: Iterator[bytes], *, frozen: bool) -> Writing:
    root = os.open(f"/proc/{root_pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace = os.open(f"/proc/{root_pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts = _mount_points(root_pid)
    data_read, data_write = os.pipe()
    fcntl.fcntl(data_write, fcntl.F_SETPIPE_SZ, CHUNK)
    result_read, result_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(data_write)
        os.close(result_read)
        unpacking = Unpacking(mounts, frozen=frozen)
        _applying_child(root, namespace, unpacking, data_read, result_write)
    for descriptor in (root, namespace, data_read, result_write):
        os.close(descriptor)
    writing = Writing(child, result_read)
    try:
        try:
            _feed(data_write, chunks)
        finally:
            os.close(data_write)
        writing.hear()
    except BaseException:
        writing.close()
        raise
    return writing


def _feed(sink: int, chunks: Iterator[bytes]) -> None:
    for chunk in chunks:
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(sink, rest) :]
        except BrokenPipeError:
            return  # the child has ended and says why


def _applying_child(
    root: int, namespace: int, unpacking: Unpacking, source: int, results: int
) -> None:
    """Apply what comes on ``source``, answer, write it back, and answer; never returns."""
    failure: dict[str, str] = {}
    try:
        _limit_memory()
        if os.fstatvfs(root).f_flag & os.ST_RDONLY:  # docker run --read-only
            enter_writable_copy(namespace)
        else:
            os.fchdir(root)
            os.chroot(".")
        os.umask(0)
        unpacking.run(source)
        _answer(results, failure)
        unpacking.write_back()
    except LivemigError as error:
        failure = error.to_wire()
    except BaseException as error:  # noqa: BLE001 - goes to the parent
        failure = InternalError(f"writing the container's files: {error!r}").to_wire()
    finally:
        # Nothing may get past this: above are the callers of the parent, and what they undo.
        try:
            _answer(results, failure)
        finally:
            os._exit(0)


def _answer(results: int, failure: dict[str, str]) -> None:
    os.write(results, json.dumps(failure).encode() + b"\n")


def _limit_memory() -> None:
    """Let no header of the archive take more memory than it should ever need."""
    with open("/proc/self/statm", "rb") as sizes:
        limit = int(sizes.read().split()[0]) * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _mount_points(pid: int) -> set[str]:
    names = (mount.point.lstrip("/") for mount in read_mounts(pid))
    return {name for name in names if name}
