"""The writable layer of a container: what is in it, and what changed since it was last looked at.

The source reads the upper directory of the container's overlay. A path in a list of changes is
relative to it (``.`` is the directory itself) and stands for what is there now. Two kinds of names
tell what to take away, as in layers of the OCI image specification: ``dir/.wh.NAME`` for one entry,
``dir/.wh..wh..opq`` for all that a directory had. `pack` turns such a list into a tar, `apply` lays
it over the root of the target's container.

A file counts as unchanged when inode, size, mode, modification and change time are what they were.
The kernel's clock for these ticks: what changed just before the scan counts as changed once more.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal

from docker_livemig.layerapply import apply, apply_frozen
from docker_livemig.layertar import OPAQUE, WHITEOUT, pack, whiteout_of
from livemig.errors import NotCarried

__all__ = [
    "OPAQUE",
    "WHITEOUT",
    "Entry",
    "Manifest",
    "apply",
    "apply_frozen",
    "changed",
    "digest",
    "everything",
    "listing",
    "pack",
    "scan",
]

_RACY_NS = 50_000_000
_OVERLAY = "trusted.overlay."
_REFUSED = {
    "trusted.overlay.redirect": "was renamed by overlayfs without being copied (redirect_dir)",
    "trusted.overlay.metacopy": "was changed by overlayfs without being copied (metacopy)",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What tells whether a file changed. ``ctime_ns`` is -1 when it may change unnoticed."""

    mode: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mark: Literal["", "opaque", "whiteout"] = ""

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is something else that is there: it may have several names."""
        return not (self.is_dir or self.mark == "whiteout")


# Removed is removed: overlayfs lets all whiteouts share an inode, whose times say nothing.
_REMOVED = Entry(stat.S_IFCHR, 0, 0, 0, 0, "whiteout")


@dataclass(frozen=True)
class Manifest:
    """The writable layer at one time: its files by path, parents first."""

    entries: Mapping[str, Entry]
    size: int
    """Bytes that its files take on disk."""
    notes: tuple[str, ...] = field(default=())
    """What is left out because it means nothing elsewhere, in words."""


def scan(upper_dir: str, previous: Manifest | None = None) -> Manifest:
    """Return what is in the writable layer. With ``previous``, what did not change costs less.

    No symbolic link is followed: the container may change the tree meanwhile. Raises NotCarried for
    files that only overlayfs understands, OSError.
    """
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    scanner = _Scanner(previous.entries if previous else {}, now - _RACY_NS)
    with _directory(upper_dir) as root:
        scanner.visit(root, ".")
    found = dict(sorted(scanner.found.items(), key=lambda item: _order(item[0])))
    return Manifest(found, scanner.size, tuple(scanner.notes))


def everything(manifest: Manifest) -> list[str]:
    """Return the list of changes that makes an image's files into the container's."""
    return changed(Manifest({}, 0), manifest)


def changed(old: Manifest, new: Manifest) -> list[str]:
    """Return the list of changes from one scan to the next: removals first, then parents first."""
    before, after = old.entries, new.entries
    replaced = {p for p, e in after.items() if p in before and _is_another(before[p], e)}
    fresh = replaced | {p for p, e in after.items() if e.mark == "opaque" and p not in before}
    sent = {
        path
        for path, entry in after.items()
        if entry != before.get(path) or entry.ctime_ns < 0 or _is_below(path, fresh)
    }
    # All names of a file go together: only so do they become links of one file again.
    files = {after[path].ino for path in sent if after[path].is_file}
    changes = [whiteout_of(path) for path in before if _vanished(path, before, after)]
    for path, entry in after.items():
        if path not in sent and not (entry.is_file and entry.ino in files):
            continue
        if entry.mark == "whiteout" or path in replaced:
            changes.append(whiteout_of(path))
        if entry.mark != "whiteout":
            changes.append(path)
        if entry.mark == "opaque" and (path in fresh or _is_below(path, fresh)):
            changes.append(os.path.join(path, OPAQUE))
    return changes


class _Scanner:
    def __init__(self, known: Mapping[str, Entry], racy: int) -> None:
        self.found: dict[str, Entry] = {}
        self.notes: list[str] = []
        self.size = 0
        self._counted: set[int] = set()
        self._known = known
        self._racy = racy

    def visit(self, directory: int, path: str) -> None:
        entry = self._add(path, os.stat(directory), directory)
        if entry is None:
            return
        with os.scandir(directory) as children:
            found = list(children)
        for child in found:
            name = child.name if path == "." else f"{path}/{child.name}"
            if child.name.startswith(WHITEOUT):
                raise NotCarried(
                    f"/{name} is a name that layers use for what was removed",
                    hint="rename the file",
                )
            try:
                if child.is_dir(follow_symlinks=False):
                    with _directory(child.name, directory) as inner:
                        self.visit(inner, name)
                else:
                    status = os.stat(child.name, dir_fd=directory, follow_symlinks=False)
                    self._add(name, status, f"/proc/self/fd/{directory}/{child.name}")
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone or another thing meanwhile: the next scan shows it

    def _add(self, path: str, status: os.stat_result, access: str | int) -> Entry | None:
        mode = status.st_mode
        if stat.S_ISSOCK(mode):
            self.notes.append(f"/{path} is a socket, which its program makes again")
            self.found[path] = _REMOVED  # what the image has there, it has not
            return None
        if status.st_ino not in self._counted:
            self.size += status.st_blocks * 512
        if status.st_nlink > 1 and not stat.S_ISDIR(mode):
            self._counted.add(status.st_ino)
        # A status that may still change without a trace is never taken for the same.
        ctime = status.st_ctime_ns if status.st_ctime_ns < self._racy else -1
        size = 0 if stat.S_ISDIR(mode) else status.st_size
        known = self._known.get(path)
        entry = Entry(mode, status.st_ino, size, status.st_mtime_ns, ctime)
        if known and known.ctime_ns >= 0 and replace(known, mark="") == entry:
            entry = known
        elif stat.S_ISCHR(mode) and status.st_rdev == 0:
            entry = _REMOVED
        elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            entry = _with_overlay(entry, path, access)
        self.found[path] = entry
        return entry


def _with_overlay(entry: Entry, path: str, access: str | int) -> Entry:
    """Return the entry with what overlayfs says about it in extended attributes."""
    names = os.listxattr(access, follow_symlinks=isinstance(access, int))
    for name in names:
        if name in _REFUSED:
            raise NotCarried(f"/{path} {_REFUSED[name]}", hint="write the file anew")
    if f"{_OVERLAY}whiteout" in names:
        return _REMOVED
    if entry.is_dir and f"{_OVERLAY}opaque" in names:
        opaque = os.getxattr(access, f"{_OVERLAY}opaque") == b"y"  # "x": has whiteouts in it
        return replace(entry, mark="opaque" if opaque else "")
    return entry


@contextmanager
def _directory(name: str, parent: int | None = None) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _order(path: str) -> tuple[str, ...]:
    return () if path == "." else tuple(path.split("/"))


def _is_another(before: Entry, after: Entry) -> bool:
    # The number of an inode is given again soon: the mark tells a directory that was made anew
    # over one of the image. (One that somebody has open cannot lose its number.)
    same_kind = stat.S_IFMT(before.mode) == stat.S_IFMT(after.mode)
    return not (same_kind and before.mark == after.mark and before.ino == after.ino)


def _is_below(path: str, roots: set[str]) -> bool:
    return bool(roots) and any(str(parent) in roots for parent in PurePosixPath(path).parents)


def _vanished(path: str, before: Mapping[str, Entry], after: Mapping[str, Entry]) -> bool:
    """Tell whether a path is to be removed by itself: not when that of a parent does it."""
    if path in after or before[path].mark == "whiteout":
        return False
    parent = os.path.dirname(path) or "."
    return (
        parent in after and after[parent].is_dir and not _is_another(before[parent], after[parent])
    )


# For comparing trees


def listing(root: str) -> dict[str, str]:
    """Return a line for each file below ``root`` with all that a copy must have in common."""
    lines: dict[str, str] = {}
    links: dict[tuple[int, int], str] = {}
    for directory, directories, files in os.walk(root):
        linked = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        for name in ["", *sorted([*files, *linked])]:
            path = os.path.join(directory, name).rstrip("/")
            relative = os.path.relpath(path, root)
            lines[relative] = _line(path, relative, links)
    return dict(sorted(lines.items()))


def digest(root: str) -> str:
    """Return a digest over `listing`."""
    text = "".join(f"{name}\0{line}\0" for name, line in listing(root).items())
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _line(path: str, name: str, links: dict[tuple[int, int], str]) -> str:
    status = os.lstat(path)
    words = [f"{status.st_mode:o}", f"{status.st_uid}:{status.st_gid}", str(status.st_mtime_ns)]
    for attribute in sorted(os.listxattr(path, follow_symlinks=False)):
        if not attribute.startswith(_OVERLAY):
            value = os.getxattr(path, attribute, follow_symlinks=False)
            words.append(f"{attribute}={value.hex()}")
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            words.append(hashlib.file_digest(file, "sha256").hexdigest())
        if status.st_nlink > 1:
            words.append(f"link of {links.setdefault((status.st_dev, status.st_ino), name)}")
    elif stat.S_ISLNK(status.st_mode):
        words.append(os.readlink(path))
    elif not stat.S_ISDIR(status.st_mode):
        words.append(f"device {status.st_rdev:x}")
    return " ".join(words)
