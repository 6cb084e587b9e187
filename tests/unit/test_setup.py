"""What setup makes of Docker's configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from docker_livemig import engine_api, setup
from docker_livemig.journal import Journal
from livemig.errors import ContainerError, HostError, NoDocker, NotRoot, UnderWay

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


@pytest.mark.parametrize(
    ("states", "error"),
    [
        (["begun"], None),
        (["begun", "freezing"], ContainerError),
        (["begun", "freezing", "committed"], ContainerError),
        (["begun", "freezing", "returned"], ContainerError),
        (["accepted", "lost"], None),
    ],
)
def test_undo_is_refused_while_a_container_is_frozen_by_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: list[str], error: type[Exception]
) -> None:
    """Nobody could end that move any more, and Docker says that the container runs."""
    monkeypatch.setenv("LIVEMIG_STATE_DIR", str(tmp_path))
    first, *others = states
    journal = Journal("m1")
    journal.begin(first)
    with pytest.raises(UnderWay, match="is at work on the move m1"):
        setup._refuse_while_moved()
    for state in others:
        journal.append(state)
    journal.leave()
    with pytest.raises(error, match=f"m1 of this host is {states[-1]}") if error else nullcontext():
        setup._refuse_while_moved()
    if error:
        journal.append("returned", settled=True)
        setup._refuse_while_moved()


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


def test_only_root_sets_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotRoot):
        setup.run()


LISTEN = """\
import socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("listening", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(directory: Path, name: str, *arguments: str) -> Iterator[int]:
    """Yield a process of that name that listens at the first argument."""
    program = directory / name
    program.symlink_to(os.path.realpath(sys.executable))
    argv = [str(program), "-ISc", LISTEN, *arguments]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"listening\n"
        yield child.pid


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Where the usual engine listens, where another does, and the usual one's pid file."""
    usual, another, file = (tmp_path / name for name in ("usual.sock", "x.sock", "docker.pid"))
    monkeypatch.setattr(engine_api, "DEFAULT_SOCKET", f"unix://{usual}")
    monkeypatch.setattr(setup, "_PIDFILES", (file,))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return usual, another, file


ENGINE = cast("Any", SimpleNamespace(timeout=5))


def test_another_engine_is_not_taken_for_the_usual_one(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, another, file = places
    (tmp_path / "b").mkdir()
    options = ("--config-file", "/etc/docker/another.json")
    with (
        process(tmp_path, "dockerd", str(usual)) as first,
        process(tmp_path / "b", "dockerd", str(another), *options) as second,
    ):
        file.write_text(str(first))
        assert setup.find_daemon(ENGINE) == setup.Daemon(first, setup.CONFIG)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{another}")
        assert setup.find_daemon(ENGINE) == setup.Daemon(second, Path(options[1]))


def test_who_only_listens_for_the_engine_is_not_taken_for_it(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd does (docker.socket); of an engine at another place nothing is known then."""
    usual, another, file = places
    with (
        process(tmp_path, "systemd", str(usual)),
        process(tmp_path, "dockerd", str(tmp_path / "none.sock")) as engine,
    ):
        file.write_text(str(engine))
        assert setup.find_daemon(ENGINE).pid == engine
        usual.rename(another)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{another}")
        with pytest.raises(NoDocker, match=str(another)):
            setup.find_daemon(ENGINE)
