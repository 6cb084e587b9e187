"""The registry of held containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_livemig import hold
from livemig.errors import InternalError

ID = "ab" * 32


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEMIG_HOLD_DIR", str(tmp_path / "hold"))
    return tmp_path / "hold"


def test_what_is_not_registered_has_no_state(directory: Path) -> None:
    assert hold.state(ID) is None
    assert hold.registered() == []
    hold.forget(ID)
    assert not directory.exists()


def test_pending_is_for_root_alone_and_forgotten_without_a_trace(directory: Path) -> None:
    hold.pend(ID, Path("/bin/true"))
    assert hold.state(ID) == "pending"
    assert hold.registered() == [ID]
    assert directory.stat().st_mode & 0o777 == 0o700
    hold.forget(ID)
    assert list(directory.iterdir()) == []


def test_only_what_is_held_can_run() -> None:
    with pytest.raises(InternalError, match="abababababab is not held"):
        hold.running(ID)
    hold.pend(ID, Path("/bin/true"))
    with pytest.raises(InternalError, match="not held"):
        hold.running(ID)
    with pytest.raises(InternalError, match="not held"):
        hold.original(ID)


@pytest.mark.parametrize("bad", ["", "recorder", "../" + ID, ID.upper(), ID + "\n"])
def test_names_are_no_ids(bad: str) -> None:
    with pytest.raises(InternalError, match="not a container's full ID"):
        hold.pend(bad, Path("/bin/true"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": "asleep"}'])
def test_a_damaged_record_is_named(directory: Path, content: str) -> None:
    directory.mkdir()
    (directory / f"{ID}.json").write_text(content)
    with pytest.raises(InternalError, match=rf"{ID}\.json is damaged \(.*remove that container"):
        hold.state(ID)
