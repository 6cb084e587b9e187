"""The child that writes a container's files never becomes a second copy of the peer."""

from __future__ import annotations

import os

from docker_livemig import layerapply, unpack

ESCAPED = 7


def test_the_child_ends_when_nobody_hears_it() -> None:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    source, source_writer = os.pipe()
    results_reader, results = os.pipe()
    os.close(source_writer)
    os.close(results_reader)
    child = os.fork()
    if child == 0:
        try:
            applier = unpack.Unpacking(set(), frozen=True)
            layerapply._applying_child(root, -1, applier, source, results)
        finally:
            os._exit(ESCAPED)
    for descriptor in (root, source, results):
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
