"""The back end of the layout interface that a host has: found by trying, the device first."""

from __future__ import annotations

import os

from livemig.errors import KernelLacks
from livemig.inject.device_layout import DeviceLayout, open_device
from livemig.inject.held import Held
from livemig.inject.layout import StubLayout
from livemig.layout import LayoutBackend
from livemig.model import DEVICE, STUB, LayoutChoice
from livemig.system.device import PATH


def check_layout(choice: LayoutChoice) -> None:
    """See that this host has what was chosen; KernelLacks where it has not."""
    if choice == DEVICE:
        try:
            open_device().close()
        except OSError as error:
            raise _lacking(error) from error


def lay_out_by(choice: LayoutChoice, held: Held, root: int) -> LayoutBackend:
    """Return what changes the layout of a held process that has its stub.

    With "auto" the device where this host has one that takes the process, otherwise as chosen:
    KernelLacks where it cannot.
    """
    why = ""
    if choice != STUB:
        try:
            return DeviceLayout(held, root)
        except OSError as error:
            if choice == DEVICE:
                raise _lacking(error) from error
            why = "" if isinstance(error, FileNotFoundError) else str(error)
    return StubLayout(held, root, passed_over=why)


def _lacking(error: OSError) -> KernelLacks:
    return KernelLacks(
        f"{os.uname().nodename} lacks the mremap device ({PATH}), which --layout {DEVICE} needs: "
        f"{error}",
        hint="load its module there (kmod/, on a patched kernel), or use --layout auto or stub",
    )
