"""What a container may have altered is asked of the kernel, which may not know such things."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from docker_livemig import altered
from livemig.system.mounts import Mount


def raising(error: Exception) -> Any:
    def ask() -> Any:
        raise error

    return ask


@pytest.mark.parametrize(
    "error",
    [
        NetlinkError(errno.EINVAL, "no such subsystem"),
        NetlinkError(errno.EAFNOSUPPORT, "no IPv6"),
        OSError(errno.EPROTONOSUPPORT, "no such protocol"),
    ],
)
def test_what_a_kernel_does_not_know_nobody_has(error: Exception) -> None:
    assert altered._known(raising(error)) == []


@pytest.mark.parametrize("error", [NetlinkError(errno.EPERM, ""), OSError(errno.ENOBUFS, "full")])
def test_any_other_error_is_one(error: Exception) -> None:
    with pytest.raises(type(error)):
        altered._known(raising(error))


@pytest.mark.parametrize("administrator", [False, True])
def test_only_who_may_unmount_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, administrator: bool
) -> None:
    """What a link of the image leads to, the runtime mounts at its end."""
    mounts = [Mount(1, "/", "/", "overlay", False), Mount(2, "/proc", "/", "proc", False)]
    monkeypatch.setattr(
        "docker_livemig.altered.procfs.read_status",
        lambda _: {"CapBnd": f"{administrator << 21:x}"},
    )
    monkeypatch.setattr(altered, "_root", lambda _: str(tmp_path))
    for name in ("proc", "sys"):
        (tmp_path / name).mkdir()
    (tmp_path / "resolv.conf").symlink_to("sys")
    asked = ["/proc", "/sys", "/resolv.conf", "/absent"]
    found = list(altered.unmade(asked, mounts, 1, read_only=True))
    assert found == administrator * [
        "no mount at /sys, which was unmounted inside it",
        "the mount at /, which was mounted in another way (remount) inside it",
    ]
