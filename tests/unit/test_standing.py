"""A copy that stands ready, and what becomes of it at its source's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from docker_livemig import copies, standing
from docker_livemig.copies import Copy
from docker_livemig.journal import Journal
from docker_livemig.steps import TargetState
from livemig.errors import TargetError
from livemig.wire import to_wire
from tests.unit.test_containers import SPEC


def test_a_copy_that_has_ended_since_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what a peer that took it over said of it, and the source's word."""
    journal = Journal("m1", tmp_path)
    journal.append(TargetState.READY, container="c" * 64, spec=to_wire(SPEC))
    monkeypatch.setattr(copies, "look", lambda *_: Copy("exited"))
    monkeypatch.setattr(copies, "discard", lambda *_: None)
    with pytest.raises(TargetError, match=f"the copy of {SPEC.name} on .* was ended before it ran"):
        standing.start_copy(cast("Any", None), journal)
    assert journal.state == TargetState.LOST
