"""HOST means what the user thinks it means, and never reaches a shell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from docker_livemig.hosts import (
    Destination,
    context_endpoint,
    current_endpoint,
    diagnose,
    resolve,
    ssh_argv,
)
from livemig import errors
from livemig.errors import HostUnknown, LivemigError, UsageError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "LIVEMIG_SSH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def add_context(config: Path, name: str, host: str | None) -> None:
    """Write a context as `docker context create` does."""
    place = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    place.mkdir(parents=True)
    endpoints = {} if host is None else {"docker": {"Host": host, "SkipTLSVerify": False}}
    data = {"Name": name, "Metadata": {}, "Endpoints": endpoints}
    (place / "meta.json").write_text(json.dumps(data))


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("b", Destination("b", "b")),
        ("node-1.example.org", Destination("node-1.example.org", "node-1.example.org")),
        ("10.0.0.2", Destination("10.0.0.2", "10.0.0.2")),
        ("root@b", Destination("root@b", "b", "root")),
        ("ssh://b", Destination("ssh://b", "b")),
        ("ssh://b/", Destination("ssh://b/", "b")),
        ("ssh://root@b:2222", Destination("ssh://root@b:2222", "b", "root", 2222)),
        ("ssh://[fe80::1%eth0]:22", Destination("ssh://[fe80::1%eth0]:22", "fe80::1%eth0", "", 22)),
        ("ssh://UPPER", Destination("ssh://UPPER", "UPPER")),
        ("2001:db8::5", Destination("2001:db8::5", "2001:db8::5")),
        ("root@fe80::1%eth0", Destination("root@fe80::1%eth0", "fe80::1%eth0", "root")),
    ],
)
def test_forms_of_host(host: str, expected: Destination) -> None:
    assert resolve(host) == expected
    again = resolve(expected.url)
    assert (again.host, again.user, again.port) == (expected.host, expected.user, expected.port)


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    "host",
    [
        "",
        "-oProxyCommand=touch /tmp/x",
        "ssh://-oProxyCommand=x",
        "ssh://-l@b",
        "ssh://",
        "ssh://b:port",
        "ssh://b:99999",
        "ssh://u:secret@b",
        "ssh://b/path",
        "ssh://b?x=1",
        "tcp://b:2376",
        "a b",
        "a;reboot",
        "$(reboot)",
        "a\nb",
        "ssh://@b",
        "ssh://[::1",
        "b-",
    ],
)
def test_what_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="HOST"):
        resolve(host)


def test_a_context_wins_over_a_name(config: Path) -> None:
    add_context(config, "b", "ssh://admin@far.example.org:2222")
    assert resolve("b") == Destination("b", "far.example.org", "admin", 2222)
    assert resolve("c") == Destination("c", "c")


@pytest.mark.parametrize("endpoint", ["unix:///var/run/docker.sock", "tcp://b:2376", None])
def test_a_context_without_ssh_is_named(config: Path, endpoint: str | None) -> None:
    add_context(config, "b", endpoint)
    with pytest.raises(HostUnknown, match="docker context 'b'") as caught:
        resolve("b")
    assert "ssh://" in caught.value.hint


def test_broken_contexts_are_skipped(config: Path) -> None:
    for number, text in enumerate(["", "[]", "{}", "null", '{"Name": "b", "Endpoints": 3}']):
        place = config / "contexts" / "meta" / str(number)
        place.mkdir(parents=True)
        (place / "meta.json").write_text(text)
    add_context(config, "b", "ssh://far")
    assert context_endpoint("b") == "ssh://far"


def test_precedence_of_endpoints(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As resolveContextName and resolveDockerEndpoint of github.com/docker/cli decide it."""
    assert current_endpoint() == "unix:///var/run/docker.sock"
    add_context(config, "one", "ssh://one")
    add_context(config, "two", "ssh://two")
    (config / "config.json").write_text('{"currentContext": "one"}')
    assert current_endpoint() == "ssh://one"
    monkeypatch.setenv("DOCKER_CONTEXT", "two")
    assert current_endpoint() == "ssh://two"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    assert current_endpoint() == "unix:///run/other.sock"
    assert current_endpoint(context="one") == "ssh://one"
    assert current_endpoint(context="default") == "unix:///var/run/docker.sock"
    assert current_endpoint(host="tcp://x:1") == "tcp://x:1"
    with pytest.raises(UsageError, match="exclude each other"):
        current_endpoint(host="tcp://x:1", context="one")
    with pytest.raises(UsageError, match="docker context 'three' does not exist"):
        current_endpoint(context="three")


@pytest.mark.usefixtures("config")
def test_the_remote_command_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ssh_argv(Destination("b", "far", "root", 2222))
    assert argv[0] == "ssh"
    assert argv[-6:] == ["--", "far", "docker", "livemig", "peer", "--stdio"]
    assert argv[argv.index("-p") + 1] == "2222"
    assert argv[argv.index("-l") + 1] == "root"
    options = {argv[i + 1] for i, word in enumerate(argv) if word == "-o"}
    assert {"BatchMode=yes", "ClearAllForwardings=yes", "Compression=no"} <= options
    assert {"-T", "-x", "-a"} <= set(argv)
    monkeypatch.setenv("LIVEMIG_SSH", "-F '/a file' -o ConnectTimeout=1")
    argv = ssh_argv(Destination("b", "far"))
    assert argv[1:5] == ["-F", "/a file", "-o", "ConnectTimeout=1"]
    assert "-p" not in argv
    assert "-l" not in argv


@pytest.mark.parametrize(
    ("status", "stderr", "expected"),
    [
        (255, "ssh: Could not resolve hostname b: Name or service not known", errors.HostUnknown),
        (255, "ssh: connect to host b port 22: Connection refused", errors.HostUnreachable),
        (255, "ssh: connect to host b port 22: Connection timed out", errors.HostUnreachable),
        (255, "root@b: Permission denied (publickey,password).", errors.HostUnreachable),
        (
            255,
            "No ED25519 host key is known\nHost key verification failed.",
            errors.HostUnreachable,
        ),
        (255, "", errors.HostUnreachable),
        (127, "bash: line 1: docker: command not found", errors.NoDocker),
        (127, "sh: 1: docker: not found", errors.NoDocker),
        (125, "unknown flag: --stdio\nSee 'docker --help'.\nUsage: …", errors.NoPlugin),
        (125, "unknown flag: --stdio\n\nUsage:  docker [OPTIONS]", errors.NoPlugin),
        (1, "docker: 'livemig' is not a docker command.\nSee 'docker --help'", errors.NoPlugin),
        (1, "docker: unknown command: docker livemig\n\nRun 'docker --help'", errors.NoPlugin),
        (1, "sudo: a password is required", errors.NotRoot),
        (1, "sudo: a terminal is required to read the password", errors.NotRoot),
        (1, "alice is not in the sudoers file.", errors.NotRoot),
        (1, "ModuleNotFoundError: No module named 'msgpack'", errors.HostError),
        (-9, "", errors.HostError),
        (None, "", errors.HostError),
    ],
)
def test_diagnosis(status: int | None, stderr: str, expected: type[LivemigError]) -> None:
    error = diagnose("b", status, stderr.encode())
    assert type(error) is expected
    assert error.message.startswith("b: ")
    assert error.hint


def test_a_diagnosis_shows_what_ssh_said() -> None:
    error = diagnose(
        "b", 255, b"Warning: x\nssh: connect to host b port 22: Connection refused\r\n"
    )
    assert "Connection refused" in error.message
    assert "Warning" not in error.message
