"""What ends, when this host starts again, the moves that its end broke off: a unit of systemd.

A container that was frozen to leave has no restart policy, so that Docker makes no second copy of
it; a copy that was held is not to be started by Docker either. So somebody has to call
`docker livemig recover` when the host is up. Where a move stays in doubt, the other host being
away, the unit has failed (`systemctl --failed`), and tries again each minute.
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

[Service]
Type=oneshot
ExecStart={argv}
Restart=on-failure
RestartSec=60

[Install]
WantedBy=multi-user.target
"""


def is_due() -> bool:
    """Tell whether the unit lacks here, or is another version's."""
    if not _SYSTEMD.is_dir():
        return False
    return not UNIT.exists() or UNIT.read_text() != _text()


def install() -> list[str]:
    """Have the unit called at every boot; return what was done. Raises HostError.

    One that was there and that somebody has disabled stays disabled.
    """
    if not is_due():
        return []
    new = not UNIT.exists()
    try:
        ondisk.replace(UNIT, _text().encode(), mode=0o644)
    except OSError as error:
        raise HostError(f"cannot write {UNIT}: {error}") from error
    _systemctl("daemon-reload")
    if new:
        _systemctl("enable", UNIT.name)
    return [f"installed {UNIT}"]


def remove() -> list[str]:
    """Take it away; return what was done. Raises HostError."""
    if not UNIT.exists():
        return []
    _systemctl("disable", UNIT.name)
    UNIT.unlink()
    _systemctl("daemon-reload")
    return [f"removed {UNIT}"]


def _text() -> str:
    return _TEXT.format(argv=" ".join(_word(each) for each in [*own_argv(), "recover"]))


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
