"""The one table from the code of an error to the exit code of the command.

The numbers are stable. A tens digit is a branch of the tree in livemig.errors; what no number names
has that of its branch.
"""

from __future__ import annotations

from livemig import errors
from livemig.errors import LivemigError

SUCCESS = 0
EXIT_CODES: dict[type[LivemigError], int] = {
    errors.LivemigError: 1,
    errors.UsageError: 2,
    errors.InternalError: 3,
    errors.KernelLacks: 4,
    errors.ProcessGone: 5,
    errors.InDoubt: 6,
    errors.NoSuchMove: 7,
    errors.UnderWay: 8,
    errors.Contradicted: 9,
    errors.ContainerError: 10,
    errors.NoSuchContainer: 11,
    errors.NotRunning: 12,
    errors.Paused: 13,
    errors.NotCarried: 14,
    errors.HostError: 20,
    errors.HostUnknown: 21,
    errors.HostUnreachable: 22,
    errors.NoDocker: 23,
    errors.NoPlugin: 24,
    errors.NotRoot: 25,
    errors.VersionMismatch: 26,
    errors.RuntimeMissing: 27,
    errors.TargetError: 30,
    errors.NameTaken: 31,
    errors.ImageConflict: 32,
    errors.DiskFull: 33,
    errors.MachineMismatch: 34,
    errors.CreateFailed: 35,
    errors.TransferError: 40,
    errors.LinkLost: 41,
    errors.ProtocolError: 42,
    errors.StateMismatch: 43,
    errors.StepTimeout: 44,
    errors.Cancelled: 130,
}


def exit_code(error: LivemigError) -> int:
    """Return the exit code for ``error``."""
    return next(EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES)


def table() -> str:
    """Return the table as text: exit code, code, meaning."""
    rows = [(SUCCESS, "", "It was done.")] + [
        (number, cls.code, (cls.__doc__ or "").split("\n")[0]) for cls, number in EXIT_CODES.items()
    ]
    return "\n".join(f"  {number:>3}  {code:<18} {text}".rstrip() for number, code, text in rows)
