"""The registry of held containers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from docker_livemig import hold
from docker_livemig.making import refuse_more_rights
from livemig.errors import InternalError, NotCarried
from livemig.model import Credentials
from tests.unit.test_containers import SPEC

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
    with pytest.raises(InternalError, match="is not held, or was held by another version"):
        hold.rights(ID)


WHO = Credentials(
    uids=(0, 0, 0, 0), gids=(0, 0, 0, 0), groups=(), inheritable=0, permitted=1, effective=1,
    bounding=3, ambient=0, securebits=0, no_new_privs=False, dumpable=1,
    seccomp_mode=0, seccomp_filters=(), seccomp_flags=(), lsm='',
)  # fmt: skip


@pytest.mark.parametrize(
    "more", [{}, *({name: 1 << 12} for name in ("bounding", "permitted", "effective",
                                                "inheritable", "ambient"))]
)  # fmt: skip
def test_no_source_gives_more_than_docker_here(directory: Path, more: dict[str, int]) -> None:
    """As of a process in a user namespace of its own, where it has all capabilities."""
    hold.pend(ID, Path("/bin/true"))
    (directory / f"{ID}.json").write_text('{"state": "held", "rights": 3}')
    wanted = pytest.raises(NotCarried, match=r"capabilities \(0x1000\) that Docker on")
    with wanted if more else nullcontext():
        refuse_more_rights(ID, SPEC, replace(WHO, **more))  # type: ignore[arg-type]


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
