"""What can go wrong, as one tree.

LivemigError
├── ContainerError          the named container cannot be moved as it is
│   ├── NoSuchContainer     no container of that name
│   ├── NotRunning          it is not running
│   ├── Paused              it is paused
│   └── NotCarried          it holds an object that cannot be carried (named)
├── HostError               the other host cannot take part
│   ├── HostUnknown         its name does not resolve, or no such docker context
│   ├── HostUnreachable     ssh does not get through
│   ├── NoDocker            no Docker engine answers there
│   ├── NoPlugin            docker-livemig is not installed there
│   ├── NotRoot             the peer cannot become root there
│   ├── VersionMismatch     it speaks another version of the protocol
│   └── RuntimeMissing      livemig-runc is not registered there
├── TargetError             the target host cannot take this container
│   ├── NameTaken           another container has the name
│   ├── ImageConflict       the image's tag names another image there
│   ├── DiskFull            no room for image or files
│   ├── MachineMismatch     architecture, CPU features or functions of the vDSO differ
│   └── CreateFailed        Docker refused to create or start the container
├── KernelLacks             this kernel lacks what the chosen mode needs
├── TransferError           the move broke off
│   ├── LinkLost            end of file or silence on the link
│   ├── ProtocolError       the peer sent what the protocol does not allow
│   ├── StepTimeout         a step did not end within its limit
│   └── StateMismatch       what arrived is not what left
├── ProcessGone             the process ended while it was worked on
├── Cancelled               the user gave up, or a Docker command came between
├── InDoubt                 committed, but the target did not confirm
├── NoSuchMove              the host knows no move of that ID
├── UnderWay                a peer is at work on the move, or on the container
├── Contradicted            the other side of the move says otherwise
├── UsageError              the command line is wrong
└── InternalError           a defect in docker-livemig

Every error has a stable ``code`` that crosses the wire, a message that names the object at fault,
and a hint that says what to do. Exit codes are the plugin's concern (``docker_livemig.exits``).
"""

from __future__ import annotations

from typing import Any, ClassVar

TEXT_LIMIT = 4096
"""Characters of a message, or of a hint, that a receiver takes."""


class LivemigError(Exception):
    """A failure that has no code of its own, such as that of a newer peer.

    Root of the tree: ``code`` is stable, ``hint`` tells the reader what to do.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message  # which those that it passes through may add to

    def to_wire(self) -> dict[str, str]:
        """Return the error as the body of an ERROR frame."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class ContainerError(LivemigError):
    """The named container cannot be moved as it is."""

    code = "container"


class NoSuchContainer(ContainerError):
    """No container of that name or ID."""

    code = "no-such-container"


class NotRunning(ContainerError):
    """The container is not running."""

    code = "not-running"


class Paused(ContainerError):
    """The container is paused."""

    code = "paused"


class NotCarried(ContainerError):
    """The container holds an object that cannot be carried to another host."""

    code = "not-carried"


class HostError(LivemigError):
    """The other host cannot take part."""

    code = "host"


class HostUnknown(HostError):
    """The host's name does not resolve, or names no docker context with an ssh endpoint."""

    code = "host-unknown"


class HostUnreachable(HostError):
    """ssh does not get through to the host."""

    code = "host-unreachable"


class NoDocker(HostError):
    """No Docker engine answers on the host."""

    code = "no-docker"


class NoPlugin(HostError):
    """docker-livemig is not installed on the host."""

    code = "no-plugin"


class NotRoot(HostError):
    """The peer cannot become root on the host."""

    code = "not-root"


class VersionMismatch(HostError):
    """The two peers speak different versions of the protocol."""

    code = "version-mismatch"


class RuntimeMissing(HostError):
    """The OCI runtime livemig-runc is not registered with the host's Docker."""

    code = "runtime-missing"


class TargetError(LivemigError):
    """The target host cannot take this container."""

    code = "target"


class NameTaken(TargetError):
    """Another container on the target has the name."""

    code = "name-taken"


class ImageConflict(TargetError):
    """The image's tag names another image on the target."""

    code = "image-conflict"


class DiskFull(TargetError):
    """The target has no room for the image or the files."""

    code = "disk-full"


class MachineMismatch(TargetError):
    """Architecture, CPU features or vDSO of the two hosts do not fit."""

    code = "machine-mismatch"


class CreateFailed(TargetError):
    """Docker on the target refused to create or start the container."""

    code = "create-failed"


class KernelLacks(LivemigError):
    """The kernel lacks what the chosen mode needs."""

    code = "kernel-lacks"


class TransferError(LivemigError):
    """The move broke off; the source runs on."""

    code = "transfer"


class LinkLost(TransferError):
    """End of file on the link, or silence for longer than the limit."""

    code = "link-lost"


class ProtocolError(TransferError):
    """The other side sent what the protocol does not allow."""

    code = "protocol"


class StateMismatch(TransferError):
    """What arrived is not what left."""

    code = "state-mismatch"


class StepTimeout(TransferError):
    """A step of the move did not end within its limit."""

    code = "step-timeout"


class ProcessGone(LivemigError):
    """The process ended while it was worked on."""

    code = "process-gone"


class Cancelled(LivemigError):
    """The user gave up before the point of no return."""

    code = "cancelled"


class InDoubt(LivemigError):
    """The move was committed, but the target did not confirm that the container runs there."""

    code = "in-doubt"


class NoSuchMove(LivemigError):
    """The host knows no move of that ID."""

    code = "no-such-move"


class UnderWay(LivemigError):
    """A peer is at work on the move that was named, or on one of the container."""

    code = "under-way"


class Contradicted(LivemigError):
    """The other side of the move says otherwise than the operator."""

    code = "contradicted"


class UsageError(LivemigError):
    """The command line is wrong."""

    code = "usage"


class InternalError(LivemigError):
    """A defect in docker-livemig itself."""

    code = "internal"


def _tree(cls: type[LivemigError]) -> dict[str, type[LivemigError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found.update(_tree(sub))
    return found


def from_wire(body: dict[str, Any]) -> LivemigError:
    """Return the error that an ERROR frame's body stands for; an unknown code becomes the root.

    Its texts come from elsewhere and end on a terminal: they are cut, and show no control codes.
    """
    cls = _tree(LivemigError).get(str(body.get("code", "")), LivemigError)
    message, hint = (str(body.get(key, ""))[:TEXT_LIMIT] for key in ("message", "hint"))
    return cls(readable(message), hint=readable(hint))


def readable(text: str) -> str:
    """Return what a terminal may be shown: control codes, and bytes that are no text, are "?"."""
    return "".join(each if each.isprintable() or each in "\n\t" else "?" for each in text)
