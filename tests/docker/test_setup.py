"""`docker livemig setup` with a real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_livemig import engine_api, setup
from livemig.errors import ContainerError, HostError
from tests.conftest import NothingLeft
from tests.docker.inside import inside
from tests.hosts import Host

pytestmark = pytest.mark.docker
Pair = tuple[Host, Host]
CONFIG = "/etc/docker/daemon.json"


@pytest.fixture
def host(hosts: Pair) -> Iterator[Host]:
    """A host without the runtime, with the configuration file it had."""
    one = hosts[0]
    registered = runtime(one) is not None
    if registered:
        inside(one, setup.run, undo=True)
    # The machine may have it installed, and the host sees the machine's files.
    one.path(setup.INSTALLED).unlink(missing_ok=True)
    before = config(one)
    yield one
    after = config(one)
    inside(one, setup.run, undo=not registered)
    assert after == before


def config(host: Host) -> str | None:
    path = host.path(CONFIG)
    return path.read_text() if path.exists() else None


def runtime(host: Host) -> object:
    api = host.api()
    try:
        return api.info()["Runtimes"].get("livemig-runc")
    finally:
        api.close()


def test_a_dry_run_changes_nothing(host: Host) -> None:
    before = config(host)
    lines = inside(host, setup.run, dry_run=True)
    assert '+        "livemig-runc": {' in lines
    assert lines[-1] == "would install /usr/local/bin/livemig-runc"
    assert config(host) == before
    assert runtime(host) is None
    assert inside(host, setup.run, dry_run=True, undo=True) == [f"{CONFIG}: no change"]


def test_there_and_back(host: Host, nothing_left: NothingLeft) -> None:
    installed = host.path("/usr/local/bin/livemig-runc")
    lines = inside(host, setup.run)
    assert lines == [
        "installed /usr/local/bin/livemig-runc",
        f"registered the runtime livemig-runc in {CONFIG}",
    ]
    assert runtime(host) is not None
    assert installed.stat().st_mode & 0o777 == 0o755
    once = config(host)
    assert inside(host, setup.run) == ["the runtime livemig-runc is registered already"]
    assert config(host) == once
    installed.write_text("an older one")
    assert inside(host, setup.run) == ["installed /usr/local/bin/livemig-runc"]
    assert inside(host, setup.run, undo=True) == [
        f"removed the runtime livemig-runc from {CONFIG}",
        "removed /usr/local/bin/livemig-runc",
    ]
    assert runtime(host) is None
    assert not installed.exists()
    assert inside(host, setup.run, undo=True) == ["the runtime livemig-runc is not registered"]
    nothing_left.check()


def test_a_file_that_setup_made_goes_and_others_stay(host: Host) -> None:
    path = host.path(CONFIG)
    kept = path.read_text() if path.exists() else None
    try:
        path.unlink(missing_ok=True)
        inside(host, setup.run)
        inside(host, setup.run, undo=True)
        assert not path.exists()
        others = '{\n\t"runtimes": {"other": {"path": "/bin/true"}},\n\t"labels": ["a=b"]\n}\n'
        path.write_text(others)
        inside(host, setup.run)
        assert list(json.loads(path.read_text())) == ["runtimes", "labels"]
        inside(host, setup.run, undo=True)
        assert json.loads(path.read_text()) == json.loads(others)
    finally:
        if kept is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(kept)
        host.reload_engine()


def test_what_docker_does_not_take_is_put_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "RELOAD_LIMIT", 2)
    path = host.path(CONFIG)
    kept = path.read_text() if path.exists() else None
    try:
        path.write_text('{"no-such-option": true}')
        with pytest.raises(HostError, match="did not take the new /etc/docker/daemon"):
            inside(host, setup.run)
        assert path.read_text() == '{"no-such-option": true}'
        assert runtime(host) is None
    finally:
        if kept is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(kept)
        host.path("/usr/local/bin/livemig-runc").unlink(missing_ok=True)


def test_undo_is_refused_while_a_container_needs_the_runtime(
    host: Host, recorder_image: str
) -> None:
    inside(host, setup.run)
    host.run(["docker", "create", "--name", "moved", "--runtime", "livemig-runc", recorder_image])
    try:
        with pytest.raises(ContainerError, match=r"still needed by: moved$"):
            inside(host, setup.run, undo=True)
        assert runtime(host) is not None
    finally:
        host.run(["docker", "rm", "moved"])
        inside(host, setup.run, undo=True)


def test_the_daemon_is_found_without_its_pidfile(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find() -> setup.Daemon:
        return setup.find_daemon(engine_api.connect())

    daemon = inside(host, find)
    assert daemon.config == Path(CONFIG)
    monkeypatch.setattr(setup, "_PIDFILES", ())
    assert inside(host, find) == daemon
