"""What setup makes of Docker's configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from docker_livemig import setup
from livemig.errors import HostError, NotRoot

PROGRAM = Path("/opt/livemig-runc")
OTHERS = """{
  "log-driver": "journald",
  "runtimes": {
    "nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}
  },
  "bip": "10.9.0.1/24"
}
"""


@pytest.mark.parametrize("text", [None, "", "{}", OTHERS])
def test_the_runtime_comes_beside_what_is_there(text: str | None) -> None:
    after = json.loads(setup.with_runtime(text, PROGRAM))
    assert after.pop("runtimes").pop("livemig-runc") == {"path": "/opt/livemig-runc"}
    assert after == {k: v for k, v in json.loads(text or "{}").items() if k != "runtimes"}


def test_order_and_indentation_stay() -> None:
    after = setup.with_runtime(OTHERS, PROGRAM)
    assert list(json.loads(after)) == ["log-driver", "runtimes", "bip"]
    assert list(json.loads(after)["runtimes"]) == ["nvidia", "livemig-runc"]
    assert '\n  "bip"' in after


def test_what_is_there_already_is_not_even_formatted() -> None:
    once = setup.with_runtime(OTHERS, PROGRAM).replace("  ", "\t")
    assert setup.with_runtime(once, PROGRAM) == once


def test_undo_leaves_what_others_wrote() -> None:
    after = setup.without_runtime(setup.with_runtime(OTHERS, PROGRAM))
    assert after is not None
    assert json.loads(after) == json.loads(OTHERS)
    assert setup.without_runtime(OTHERS) == OTHERS
    assert setup.without_runtime(None) is None


def test_undo_removes_the_file_that_setup_made_and_no_other() -> None:
    made = setup.with_runtime(None, PROGRAM)
    assert setup.without_runtime(made, remove_empty=True) is None
    assert setup.without_runtime(made, remove_empty=False) == "{}\n"
    others = setup.with_runtime(OTHERS, PROGRAM)
    assert setup.without_runtime(others, remove_empty=True) is not None


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": []}'])
def test_a_broken_file_is_left_alone(text: str) -> None:
    with pytest.raises(HostError, match="configuration"):
        setup.with_runtime(text, PROGRAM)


def test_the_interpreter_of_the_runtime_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup.runtime_program().startswith(b"#!/usr/bin/python3 -IS\n")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    first = setup.runtime_program().splitlines()[0].decode()
    assert first.startswith(f"#!{sys.base_prefix}/bin/python3.")
    assert first.endswith(" -IS")


def test_replacing_keeps_mode_and_link(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("old")
    real.chmod(0o600)
    link = tmp_path / "daemon.json"
    link.symlink_to(real)
    setup._replace(link, b"new", mode=0o644)
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["daemon.json", "real.json"]


def test_only_root_sets_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotRoot):
        setup.run()
