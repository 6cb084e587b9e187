"""The command line, called by itself and through the docker commands of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docker_livemig import cli, hosts, options
from docker_livemig.exits import EXIT_CODES
from docker_livemig.version import VERSION
from livemig.errors import LivemigError, UsageError
from tests import pace
from tests.unit.leftovers import nothing_left

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_peer.py")
PLUGIN = (
    f"#!{sys.executable} -P\nimport sys\nfrom docker_livemig.main import main\nsys.exit(main())\n"
)
SSH = f"""\
#!/bin/sh
case "$*" in *dial-stdio*) exit 1;; esac  # docker 20.10 looks at the engine first
exec {sys.executable} {FAKE} $FAKE_PEER
"""


def dockers() -> list[str]:
    """Return the docker commands of this machine, of whatever versions."""
    places = ["/usr/bin/docker", "/usr/local/bin/docker", shutil.which("docker") or ""]
    return sorted({place for place in places if place and os.access(place, os.X_OK)})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker configuration with the plugin, and an ssh that leads to the fake peer."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CLI_PLUGIN_SOCKET", "LIVEMIG_SSH"):
        monkeypatch.delenv(name, raising=False)
    for path, text in (("cli-plugins/docker-livemig", PLUGIN), ("bin/ssh", SSH)):
        file = tmp_path / path
        file.parent.mkdir()
        file.write_text(text)
        file.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_PEER", "move")
    monkeypatch.setenv("FAKE_PEER_LOG", str(tmp_path / "log"))
    return tmp_path


@pytest.fixture(params=dockers() or [""])
def docker(request: pytest.FixtureRequest, place: Path) -> str:  # noqa: ARG001
    if not request.param:
        pytest.skip("no docker command on this machine")
    path: str = request.param
    return path


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=pace.limit(20), check=False)


def requested(place: Path) -> dict[str, object]:
    """Return the body of the MOVE that reached the fake peer."""
    for line in (place / "log").read_text().splitlines():
        data = json.loads(line)
        if data.get("type") == 10:
            body: dict[str, object] = data["body"]
            return body
    raise AssertionError("no MOVE was sent")


@pytest.mark.parametrize(
    ("argv", "given", "words"),
    [
        (["livemig", "web", "b"], options.Globals(), ["web", "b"]),
        (["web", "b"], options.Globals(), ["web", "b"]),
        (["peer", "--stdio"], options.Globals(), ["peer", "--stdio"]),
        (["--help"], options.Globals(), ["--help"]),
        (["--verify", "web", "b"], options.Globals(), ["--verify", "web", "b"]),
        (["help", "livemig"], options.Globals(), ["--help"]),
        (["help", "livemig", "setup"], options.Globals(), ["setup", "--help"]),
        (["--context", "x", "livemig", "a"], options.Globals(context="x"), ["a"]),
        (["--context=x", "livemig", "a"], options.Globals(context="x"), ["a"]),
        (["-c", "x", "livemig"], options.Globals(context="x"), []),
        (["-cx", "livemig"], options.Globals(context="x"), []),
        (["-c=x", "livemig"], options.Globals(context="x"), []),
        (["-H", "ssh://b", "livemig"], options.Globals(host="ssh://b"), []),
        (["--host", "ssh://b", "-D", "livemig"], options.Globals(host="ssh://b", debug=True), []),
        (["--debug=false", "livemig"], options.Globals(), []),
        (["-l", "debug", "--tlsverify", "--tlscacert", "f", "livemig"], options.Globals(), []),
        (["--config", "/c", "livemig", "livemig", "b"], options.Globals("/c"), ["livemig", "b"]),
        (["-c", "livemig", "livemig", "a"], options.Globals(context="livemig"), ["a"]),
    ],
)
def test_options_of_docker(argv: list[str], given: options.Globals, words: list[str]) -> None:
    assert options.split_globals(argv) == (given, words)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["livemig"],
        ["livemig", "web"],
        ["livemig", "web", "b", "c"],
        ["livemig", "--no-such-option", "web", "b"],
        ["livemig", "--mode", "sideways", "web", "b"],
        ["livemig", "--tracker", "bloodhound", "web", "b"],
        ["livemig", "--layout", "hammer", "web", "b"],
        ["livemig", "--max-rounds", "0", "web", "b"],
        ["livemig", "--downtime-limit", "soon", "web", "b"],
        ["livemig", "--cache=-1", "web", "b"],
        ["livemig", "--verif", "web", "b"],
        ["livemig", "web", "b;reboot"],
        ["livemig", "", "b"],
        ["livemig", "web/../json", "b"],
        ["livemig", "web", "tcp://b:2375"],
        ["livemig", "version", "please"],
        ["livemig", "peer"],
        ["--context"],
        ["--context", "nope", "livemig", "web", "b"],
        ["-H", "tcp://b:2375", "livemig", "web", "b"],
        ["-H", "ssh://b", "-c", "x", "livemig", "web", "b"],
    ],
)
@pytest.mark.usefixtures("place")
def test_a_wrong_command_line_has_an_exit_code(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")


def test_every_option_reaches_the_peer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = (
        "-H ssh://a livemig --mode stop-and-copy --keep-source --downtime-limit 30 web "
        "--tracker comparison --max-rounds 5 --cache 16 --verify ssh://root@b:2222 "
        "--timeout 60 --progress plain --layout stub"
    )
    assert cli.main(argv.split()) == 0
    assert requested(place) == {
        "container": "web",
        "host": "ssh://root@b:2222",
        "mode": "stop-and-copy",
        "tracker": "comparison",
        "layout": "stub",
        "keep_source": True,
        "dry_run": False,
        "downtime_limit_ms": 30,
        "max_rounds": 5,
        "cache_mib": 16,
        "verify": True,
        "timeout_s": 60.0,
        "destination": "ssh://root@b:2222",
        "docker_host": "",
        "ssh_agent": "",
        "run_ssh_as": "",
    }
    out, err = capsys.readouterr()
    assert "Downtime:  12.5 ms" in out
    assert err.splitlines()[0] == "preparing"


@pytest.mark.usefixtures("place")
def test_the_local_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    words = options.move_parser().parse_args(["web", "b"])
    request = options.make_request(words, "unix:///run/a.sock", "/agent")
    assert (request.docker_host, request.ssh_agent) == ("unix:///run/a.sock", "/agent")
    request = options.make_request(words, "ssh://a", "/agent")
    assert (request.docker_host, request.ssh_agent) == ("", "")  # they are on another host


@pytest.mark.usefixtures("place")
def test_forms_of_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["-H", "ssh://a", "livemig", "web", "b"]
    assert cli.main([*argv, "-q"]) == 0
    assert capsys.readouterr() == ("f00dfeed" * 8 + "\n", "")
    assert cli.main([*argv, "--format", "json", "--progress", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rounds"][0]["pages"] == 256
    assert json.loads(err.splitlines()[-1])["progress"]["pages"] == 256


@pytest.mark.usefixtures("place")
def test_a_container_may_be_called_like_a_command() -> None:
    assert cli.main(["-H", "ssh://a", "livemig", "-q", "--", "version", "b"]) == 0
    assert cli.main(["-H", "ssh://a", "livemig", "-q", "setup", "b"]) == 0


def test_defects_are_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_words: str) -> str:
        raise KeyError("oops")

    assert place.exists()
    monkeypatch.setattr(hosts, "current_endpoint", broken)
    assert cli.main(["livemig", "web", "b"]) == 3
    assert "KeyError: 'oops'" in capsys.readouterr().err
    assert cli.main(["-D", "livemig", "web", "b"]) == 3
    assert "in broken" in capsys.readouterr().err


def test_setup_is_called_as_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from docker_livemig import setup  # noqa: PLC0415  as the command does

    calls = []

    def run_setup(*, dry_run: bool, undo: bool, engine: str) -> list[str]:
        calls.append((dry_run, undo, engine))
        return ["one", "two"]

    monkeypatch.setattr(setup, "run", run_setup)
    assert cli.main(["livemig", "setup"]) == 0
    second = "unix:///run/second.sock"
    assert cli.main(["-H", second, "livemig", "setup", "--dry-run", "--undo"]) == 0
    assert calls == [(False, False, hosts.LOCAL_SOCKET), (True, True, second)]
    assert capsys.readouterr().out == "one\ntwo\none\ntwo\n"


@pytest.mark.parametrize("endpoint", ["ssh://a", "tcp://10.0.0.2:2376"])
def test_setup_changes_no_other_engine_than_that_of_the_context(
    endpoint: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A context that leads elsewhere would have this host's Docker changed in its place."""
    from docker_livemig import setup  # noqa: PLC0415  as the command does

    monkeypatch.setattr(setup, "run", lambda **_: pytest.fail("this host was changed"))
    meta = place / "contexts/meta/1/meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": "far", "Endpoints": {"docker": {"Host": endpoint}}}))
    for way in ("option", "variable", "configuration"):
        if way == "variable":
            monkeypatch.setenv("DOCKER_CONTEXT", "far")
        if way == "configuration":
            monkeypatch.delenv("DOCKER_CONTEXT")
            (place / "config.json").write_text('{"currentContext": "far"}')
        words = ["--context", "far"] * (way == "option")
        assert cli.main([*words, "livemig", "setup"]) == EXIT_CODES[UsageError]
        assert f"{endpoint} is another" in capsys.readouterr().err


def test_metadata_comes_before_any_heavy_import() -> None:
    script = (
        "import sys; sys.argv = ['docker-livemig', 'docker-cli-plugin-metadata']\n"
        "from docker_livemig.main import main\n"
        "assert main() == 0\n"
        "heavy = {'argparse', 'msgspec', 'msgpack', 'docker', 'numpy', 'livemig'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = run(sys.executable, "-c", script)
    assert result.returncode == 0, result.stderr
    metadata = json.loads(result.stdout)
    assert metadata["SchemaVersion"] == "0.1.0"
    assert metadata["Vendor"]
    assert metadata["ShortDescription"]
    assert metadata["Version"] == VERSION


def test_an_output_that_takes_nothing_is_no_defect() -> None:
    argv = (sys.executable, "-m", "docker_livemig.main", "version")
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == EXIT_CODES[LivemigError]
    assert "is done, but standard output takes no word of it: [Errno 28]" in done.stderr
    done = run("sh", "-c", f"{shlex.join(argv)} >&-")
    assert done.returncode == EXIT_CODES[LivemigError]
    assert "no word of it: [Errno 9] it is closed" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(argv, check=False, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_help_tells_of_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["livemig", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("CONTAINER", "HOST", "--mode", "stop-and-copy"):
        assert word in text
    for cls, number in EXIT_CODES.items():
        assert re.search(rf"^ +{number} +{cls.code} ", text, re.MULTILINE), cls
    assert max(len(line) for line in text.splitlines()) <= 130


def test_docker_lists_the_plugin(docker: str) -> None:
    result = run(docker, "--help")
    assert "livemig*" in result.stdout
    assert "Move a running container" in result.stdout


def test_docker_passes_arguments_and_results(docker: str) -> None:
    assert run(docker, "livemig", "version").stdout == f"docker-livemig {VERSION}, protocol 1\n"
    for words in (["livemig", "--help"], ["help", "livemig"]):
        result = run(docker, *words)
        assert (result.returncode, result.stderr) == (0, "")
        assert "docker livemig [OPTIONS] CONTAINER HOST" in result.stdout
    result = run(
        docker, "-D", "--log-level", "error", "--host", "ssh://a", "livemig", "-q", "web", "b"
    )
    assert (result.returncode, result.stdout) == (0, "f00dfeed" * 8 + "\n"), result.stderr


def test_docker_passes_its_context(docker: str, place: Path) -> None:
    create = run(docker, "context", "create", "far", "--docker", "host=ssh://admin@a")
    assert create.returncode == 0, create.stderr
    result = run(docker, "--context", "far", "livemig", "-q", "web", "far")
    assert result.returncode == 0, result.stderr
    assert requested(place)["destination"] == "ssh://admin@a"


@pytest.mark.parametrize(("code", "status"), [("name-taken", 31), ("paused", 13)])
def test_docker_passes_exit_codes(
    docker: str, code: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PEER", f"move {code}")
    result = run(docker, "-H", "ssh://a", "livemig", "web", "b")
    assert result.returncode == status
    assert result.stdout == ""
    assert result.stderr.endswith(f"Error: it is {code}\nHint: do better\n")


def test_ctrl_c_through_docker(docker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One Ctrl-C reaches docker and the plugin both, and cancels once."""
    monkeypatch.setenv("FAKE_PEER", "cancel")
    argv = [docker, "-H", "ssh://a", "livemig", "--progress", "json", "web", "b"]
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stderr is not None
    assert json.loads(child.stderr.readline())["progress"]["pages"] == 5
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=pace.limit(10))
    assert (child.returncode, out) == (130, ""), err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [next(iter(line)) for line in lines] == ["note", "error"]
    assert lines[1]["error"]["message"] == "the move of web was cancelled"


def test_what_peers_tell_does_not_reach_the_terminal_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "/caf\udce9\x1b]0;b\a is a socket,\nwhich"
    monkeypatch.setattr("docker_livemig.inquiry.status", lambda *_: (text, 0))
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out == "/caf??]0;b? is a socket,\nwhich\n"
