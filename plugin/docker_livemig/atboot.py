"""What ends, when this host starts again, the moves that its end broke off: a unit of systemd.

A container that was frozen to leave has no restart policy, so that Docker makes no second copy of
it; a copy that was held is not to be started by Docker either. So somebody has to call
`docker livemig recover` when the host is up. Where a move stays in doubt, the other host being
away, the unit tries again each minute (`systemctl status livemig-recover`).
"""

from __future__ import annotations

from pathlib import Path

from docker_livemig import ondisk
from docker_livemig.far import own_argv
from livemig.errors import HostError
from livemig.spawn import run

UNIT = Path("/etc/systemd/system/livemig-recover.service")

_SYSTEMD = Path("/run/systemd/system")  # there where systemd is PID 1: sd_booted(3)
_LIMIT = 60.0
_TEXT = """\
[Unit]
Description=End the moves of containers that the end of this host broke off
After=docker.service network-online.target
Wants=network-online.target
ConditionPathExists={program}

[Service]
Type=oneshot
UnsetEnvironment=DOCKER_HOST DOCKER_CONTEXT
ExecStart={argv}
Restart=on-failure
RestartSec=60

[Install]
WantedBy=multi-user.target
"""


def is_due() -> bool:
    """Tell whether the unit lacks here, or is another version's; one that is masked stays so."""
    if not _SYSTEMD.is_dir() or UNIT.is_symlink():
        return False
    return not UNIT.exists() or UNIT.read_text() != _text()


def is_there() -> bool:
    """Tell whether there is one to take away: one that is masked is not."""
    return UNIT.exists() and not UNIT.is_symlink()


def install() -> list[str]:
    """Have the unit called at every boot; return what was done. Raises HostError.

    One that was there and that somebody has disabled stays disabled.
    """
    if not is_due():
        return []
    before = UNIT.read_bytes() if UNIT.exists() else None
    try:
        ondisk.replace(UNIT, _text().encode(), mode=0o644)
        _systemctl("daemon-reload")
        if before is None:
            _systemctl("enable", UNIT.name)
    except BaseException as error:
        # So that the next time it is due again.
        if before is None:
            UNIT.unlink(missing_ok=True)
        else:
            ondisk.replace(UNIT, before, mode=0o644)
        if isinstance(error, OSError):
            raise HostError(f"cannot write {UNIT}: {error}") from error
        raise
    return [f"installed {UNIT}"]


def remove() -> list[str]:
    """Take it away; return what was done. Raises HostError."""
    if not is_there():
        return []
    if _SYSTEMD.is_dir():
        _systemctl("disable", "--now", UNIT.name)
    UNIT.unlink()
    if _SYSTEMD.is_dir():
        _systemctl("daemon-reload")
    return [f"removed {UNIT}"]


def _text() -> str:
    program, *words = own_argv()
    # Of this host's own engine, whatever context root uses; a journal names another one itself.
    words += ["--context", "default", "livemig", "recover"]
    argv = " ".join(_word(each) for each in [program, *words])
    return _TEXT.format(program=program.replace("%", "%%"), argv=argv)


def _word(text: str) -> str:
    """Write a word as systemd reads it: systemd.service(5), COMMAND LINES."""
    for mark, twice in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        text = text.replace(mark, twice)
    return f'"{text}"'


def _systemctl(*words: str) -> None:
    try:
        done = run(["systemctl", *words], timeout=_LIMIT)
    except OSError as error:  # TimeoutError is one
        raise HostError(f"`systemctl {' '.join(words)}` failed: {error}") from error
    if done.returncode:
        raise HostError(f"`systemctl {' '.join(words)}` failed: {done.last_line}")
