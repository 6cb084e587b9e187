"""livemig-runc, with a runc that only writes down how it was called."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import docker_livemig
from docker_livemig import hold
from livemig.system.procfs import read_stat
from tests import pace

RUNTIME = Path(docker_livemig.__file__).with_name("livemig-runc")
ID = "c0" * 32
Call = Callable[..., subprocess.CompletedProcess[str]]

PROCESS = {
    "user": {"uid": 1000, "gid": 100, "umask": 18, "additionalGids": [4, 5]},
    "args": ["/recorder", "--fast"],
    "env": ["PATH=/bin"],
    "cwd": "/data",
    "capabilities": {
        "bounding": ["CAP_CHOWN", "CAP_NET_ADMIN", "CAP_CHECKPOINT_RESTORE"],
        "effective": ["CAP_CHOWN"],
        "permitted": ["CAP_CHOWN"],
        "inheritable": ["CAP_CHOWN"],
        "ambient": ["CAP_CHOWN"],
    },
    "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 64, "soft": 32}],
    "noNewPrivileges": True,
    "apparmorProfile": "docker-default",
}
CONFIG = {
    "process": PROCESS,
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "config.json").chmod(0o640)
    return path


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("LIVEMIG_HOLD_DIR", str(tmp_path / "hold"))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "runc").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$CALLED"\nexit 7\n')
    (tools / "runc").chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "LIVEMIG_HOLD_DIR": str(tmp_path / "hold"),
        "CALLED": str(tmp_path / "called"),
    }

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "called").unlink(missing_ok=True)
        return subprocess.run(
            [RUNTIME, *words],
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=pace.limit(20),
        )

    return run


@pytest.fixture
def called(tmp_path: Path) -> Callable[[], list[str] | None]:
    def read() -> list[str] | None:
        path = tmp_path / "called"
        return path.read_text().splitlines() if path.exists() else None

    return read


def config_of(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return content


Called = Callable[[], list[str] | None]


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        (),
        ("--root", "/run/x", "--log", "/dev/null", "--log-format", "json", "state", ID),
        ("--root=/run/x", "--systemd-cgroup", "delete", "--force", ID),
        ("create", "--bundle", "/nowhere", "--pid-file", "/x", ID),
        ("resume", ID),
        ("exec", ID, "resume", ID),
    ],
)
def test_other_calls_go_to_runc_as_they_came(
    words: tuple[str, ...], call: Call, called: Called
) -> None:
    done = call(*words)
    assert done.returncode == 7
    assert (called() or []) == (list(words) or [""])


def test_a_pending_container_is_created_with_the_hold_program(
    call: Call, called: Called, bundle: Path
) -> None:
    program = Path("/bin/true")
    hold.pend(ID, program)
    words = ["--log", "/dev/null", "--log-format", "json", "create", "--bundle", str(bundle)]
    assert call(*words, "--pid-file", "/x", ID).returncode == 7
    assert called() == [*words, "--pid-file", "/x", ID]
    config = config_of(bundle)
    process = config["process"]
    assert process["args"] == [hold.PLACE]
    assert process["cwd"] == "/"
    assert process["user"] == {"uid": 0, "gid": 0, "umask": 18}
    for kept in ("env", "rlimits", "noNewPrivileges", "apparmorProfile"):
        assert process[kept] == PROCESS[kept]
    assert config["linux"] == CONFIG["linux"]
    assert config["mounts"][:-1] == CONFIG["mounts"]
    mount = config["mounts"][-1]
    assert (mount["destination"], mount["source"]) == (hold.PLACE, str(program))
    assert {"bind", "ro"} <= set(mount["options"])
    assert (bundle / "config.json").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(bundle)) == ["config.json"]
    assert hold.state(ID) == "held"
    assert hold.original(ID) == PROCESS
    assert hold.rights(ID) == 1 << 0 | 1 << 12 | 1 << 40  # linux/capability.h


def test_the_hold_program_has_every_capability_of_the_machine_and_no_other(
    call: Call, bundle: Path
) -> None:
    hold.pend(ID, Path("/bin/true"))
    call("create", "-b", str(bundle), ID)
    caps = config_of(bundle)["process"]["capabilities"]
    with open("/proc/self/status") as status:
        bits = next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd"))
    assert len(caps["bounding"]) == min(bits.bit_count(), 41)
    assert ("CAP_SYS_RESOURCE" in caps["bounding"]) == bool(bits >> 24 & 1)
    assert ("CAP_CHECKPOINT_RESTORE" in caps["bounding"]) == bool(bits >> 40 & 1)
    assert caps["bounding"] == caps["effective"] == caps["permitted"]
    assert caps["inheritable"] == caps["ambient"] == []


def test_the_bundle_is_the_current_directory_unless_named(
    call: Call, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold.pend(ID, Path("/bin/true"))
    monkeypatch.chdir(bundle)
    call("create", ID)
    assert config_of(bundle)["process"]["args"] == [hold.PLACE]


def test_a_held_container_is_not_created_again(
    call: Call, called: Called, bundle: Path, tmp_path: Path
) -> None:
    hold.pend(ID, Path("/bin/true"))
    call("create", "--bundle", str(bundle), ID)
    (bundle / "config.json").write_text(json.dumps(CONFIG))
    log = tmp_path / "log.json"
    done = call("--log", str(log), "--log-format", "json", "create", "--bundle", str(bundle), ID)
    assert done.returncode == 1
    assert called() is None
    assert f"{ID[:12]} is held" in done.stderr
    entry = json.loads(log.read_text())
    assert entry["level"] == "error"
    assert f"{ID[:12]} is held" in entry["msg"]
    assert config_of(bundle) == CONFIG


def test_resume_is_refused_until_the_application_runs_and_once_is_answered_without_thawing(
    call: Call, called: Called, bundle: Path
) -> None:
    hold.pend(ID, Path("/bin/true"))
    call("create", "--bundle", str(bundle), ID)
    done = call("--root", "/x", "resume", ID)
    assert (done.returncode, called()) == (1, None)
    assert f"{ID[:12]} is held" in done.stderr
    hold.running(ID)
    assert call("--root", "/x", "resume", ID).returncode == 0
    assert called() is None
    assert hold.state(ID) is None
    assert call("--root", "/x", "resume", ID).returncode == 7


def test_what_ran_and_ended_starts_its_real_command(call: Call, bundle: Path) -> None:
    hold.pend(ID, Path("/bin/true"))
    call("create", "--bundle", str(bundle), ID)
    hold.running(ID)
    (bundle / "config.json").write_text(json.dumps(CONFIG))
    assert call("create", "--bundle", str(bundle), ID).returncode == 7
    assert config_of(bundle) == CONFIG
    assert hold.state(ID) is None


@pytest.mark.parametrize("damage", ["hold program", "record", "bundle"])
def test_what_cannot_be_held_does_not_run(
    damage: str, call: Call, called: Called, bundle: Path, tmp_path: Path
) -> None:
    hold.pend(ID, Path("/nowhere/hold" if damage == "hold program" else "/bin/true"))
    if damage == "record":
        (tmp_path / "hold" / f"{ID}.json").write_text("{")
    if damage == "bundle":
        (bundle / "config.json").unlink()
    log = tmp_path / "log"
    done = call("--log", str(log), "create", "--bundle", str(bundle), ID)
    assert done.returncode == 1
    assert called() is None
    assert "livemig-runc: " in done.stderr
    assert log.read_text().startswith('time="')
    assert "level=error" in log.read_text()


def test_runc_is_named_found_or_missed(call: Call, called: Called, tmp_path: Path) -> None:
    named = tmp_path / "my-runc"
    (tmp_path / "bin" / "runc").rename(named)
    assert call("state", ID, LIVEMIG_RUNC=str(named)).returncode == 7
    assert called() == ["state", ID]
    (tmp_path / "bin" / "runc").symlink_to(RUNTIME)
    done = call("state", ID, PATH=f"{tmp_path}/bin")
    assert done.returncode == 1
    assert "runc is not on PATH" in done.stderr


def test_a_call_that_is_not_ours_loads_nothing_but_the_interpreter(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-X", "importtime", RUNTIME, "state", ID],
        env={"LIVEMIG_RUNC": "/bin/true", "LIVEMIG_HOLD_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=pace.limit(20),
    )
    assert "posixpath" in done.stderr
    assert "json" not in done.stderr
    assert RUNTIME.read_text().splitlines()[0] == "#!/usr/bin/python3 -IS"


@pytest.mark.parametrize("ended", ["no", "zombie", "reaped", "its-number-is-anothers", "unknown"])
def test_what_is_left_of_a_held_container_that_has_ended_is_thawed(
    call: Call, called: Called, bundle: Path, tmp_path: Path, ended: str
) -> None:
    """Runc takes a frozen cgroup for a paused container, and does not remove it."""
    hold.pend(ID, Path("/bin/true"))
    call("create", "--bundle", str(bundle), ID)
    program = tmp_path / os.fsdecode(b"no \xc3(\xff) text")  # as its name is shown
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        begun = int(read_stat(process.pid)[21])
        state = {"init_process_pid": process.pid, "init_process_start": begun}
        if ended == "its-number-is-anothers":
            state["init_process_start"] -= 1
        if ended != "unknown":
            (tmp_path / "root" / ID).mkdir(parents=True)
            (tmp_path / "root" / ID / "state.json").write_text(json.dumps(state))
        if ended in ("zombie", "reaped"):
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if ended == "reaped":
            process.wait()
        code = call("--root", str(tmp_path / "root"), "resume", ID).returncode
        process.kill()
    refused = ended in ("no", "unknown")
    assert (code, called() is None) == ((1, True) if refused else (7, False))
    assert hold.state(ID) == "held"
