"""What becomes of the copy of a container that is handed over, where its end is a race."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from docker_livemig import copies, lifecycle
from docker_livemig.copies import Copy
from livemig.wire import to_wire
from tests.unit.test_containers import SPEC


def test_the_cgroup_of_a_copy_that_dies_at_once_is_thawed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, it may be reaped before anything else is asked: no way leads to its cgroup then.

    runc takes a cgroup of version 2 that is empty and frozen for a paused container's.
    """
    done: list[str] = []
    cgroups = {SPEC.pid: SimpleNamespace(thaw=lambda: done.append("thawed"))}

    def kill(*_: Any) -> None:
        done.append("killed")
        cgroups.clear()

    monkeypatch.setattr(copies, "look", lambda *_: Copy("running", SPEC.pid, frozen=True))
    monkeypatch.setattr(copies, "freezer_of", cgroups.get)
    monkeypatch.setattr(lifecycle, "kill", kill)
    monkeypatch.setattr(lifecycle, "remove_source", lambda *_, **__: done.append("removed"))
    journal = SimpleNamespace(details=lambda: {"spec": to_wire(SPEC)}, move_id="m1")
    copies.end(cast("Any", None), cast("Any", journal))
    assert done == ["killed", "thawed", "removed"]
