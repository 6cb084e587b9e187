"""What the user sees of a move: progress on standard error, the summary on standard output."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from docker_livemig.requests import MoveSummary, Progress
from livemig.errors import LivemigError, readable

MODES = ("auto", "tty", "plain", "json", "quiet")
_MIB = 1 << 20
_CLEAR = "\r\x1b[K"


def make(mode: str, stream: TextIO) -> Display:
    """Return the display for ``mode``, one of MODES; "auto" looks at ``stream``."""
    if mode == "auto":
        capable = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        mode = "tty" if capable else "plain"
    kinds: dict[str, Callable[[TextIO], Display]] = {
        "tty": TerminalDisplay,
        "plain": PlainDisplay,
        "json": JsonDisplay,
        "quiet": Display,
    }
    return kinds[mode](stream)


class Display:
    """Shows nothing but errors; the base of the others. Safe to call from several threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()

    def update(self, progress: Progress) -> None:
        """Show where the move is."""

    def note(self, text: str) -> None:
        """Tell something beside the progress."""

    def error(self, error: LivemigError) -> None:
        """Tell why the command failed, and what to do."""
        self.finish()
        self._write(f"Error: {error.message}\n")
        if error.hint:
            self._write(f"Hint: {error.hint}\n")

    def finish(self) -> None:
        """Leave the stream fit for what comes after the progress."""

    def _write(self, text: str) -> None:
        with self._lock:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (BrokenPipeError, ValueError):
                return  # nobody looks any more; the move does not depend on it


class PlainDisplay(Display):
    """A line for each phase, and one for each round with its last figures."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._pending: Progress | None = None
        self._said = ""

    def update(self, progress: Progress) -> None:
        """Show ``progress`` once its phase or its round is over; without figures, at once."""
        with self._lock:
            pending = self._pending
            if pending and (pending.phase, pending.round) != (progress.phase, progress.round):
                self._say(pending)
            if progress.round or progress.bytes:
                self._pending = progress
            else:
                self._pending = None
                self._say(progress)

    def note(self, text: str) -> None:
        """Tell something beside the progress."""
        self.finish()
        self._write(text + "\n")

    def finish(self) -> None:
        """Show the figures that were kept back."""
        with self._lock:
            if self._pending:
                self._say(self._pending)
            self._pending = None

    def _say(self, progress: Progress) -> None:
        text = describe(progress)
        if text != self._said:
            self._said = text
            self._write(text + "\n")


class TerminalDisplay(Display):
    """One line that is written over."""

    def update(self, progress: Progress) -> None:
        """Show ``progress`` in place of what was there."""
        width = shutil.get_terminal_size().columns
        self._write(_CLEAR + describe(progress)[: width - 1])

    def note(self, text: str) -> None:
        """Tell something, on a line that stays."""
        self._write(f"{_CLEAR}{text}\n")

    def finish(self) -> None:
        """Take the line away."""
        self._write(_CLEAR)


class JsonDisplay(Display):
    """One JSON object a line: {"progress": …}, {"note": …} or {"error": …}."""

    def update(self, progress: Progress) -> None:
        """Write ``progress``."""
        self._object("progress", asdict(progress))

    def note(self, text: str) -> None:
        """Write a note."""
        self._object("note", text)

    def error(self, error: LivemigError) -> None:
        """Write the error with its stable code."""
        self._object("error", error.to_wire())

    def _object(self, key: str, value: Any) -> None:
        self._write(json.dumps({key: value}) + "\n")


def describe(progress: Progress) -> str:
    """Return one line for people."""
    figures = []
    if progress.pages:
        figures.append(f"{progress.pages} pages")
    if progress.bytes:
        figures.append(f"{progress.bytes / _MIB:.1f} MiB")
    if progress.rate:
        figures.append(f"{progress.rate / _MIB:.0f} MiB/s")
    if progress.dirty:
        figures.append(f"{progress.dirty} dirty")
    what = progress.text or progress.phase
    if progress.round:
        number = f"round {progress.round}"
        what = f"{progress.text} ({number})" if progress.text else number
    return readable(what) + (": " + ", ".join(figures) if figures else "")


def summary_json(summary: MoveSummary) -> str:
    """Return the summary as one JSON object."""
    return json.dumps(asdict(summary), indent=2)


def summary_table(summary: MoveSummary) -> str:
    """Return the summary for people."""
    how = ", ".join(part for part in (summary.tracker, summary.layout) if part)
    steps = ", ".join(f"{name} {millis:.1f}" for name, millis in summary.steps.items())
    lines = [
        _field("Container", f"{summary.container} ({summary.container_id[:12] or 'not moved'})"),
        _field("From", summary.source),
        _field("To", summary.target),
        _field("Mode", summary.mode + (f" ({how})" if how else "")),
    ]
    if summary.total_ms:
        lines += [
            _field("Downtime", f"{summary.downtime_ms:.1f} ms" + (f" ({steps})" if steps else "")),
            _field("Total", f"{summary.total_ms / 1000:.2f} s"),
            _field("Sent", f"{summary.sent_bytes / _MIB:.1f} MiB"),
        ]
    lines += [_field("Note", note) for note in summary.notes]
    if summary.rounds:
        lines += ["", f"{'ROUND':>5} {'PAGES':>9} {'ZERO':>9} {'DELTA':>9} {'WHOLE':>9} "
                      f"{'MIB':>9} {'MS':>9}"]  # fmt: skip
        lines += [
            f"{r.number:>5} {r.pages:>9} {r.zero:>9} {r.delta:>9} {r.whole:>9} "
            f"{r.bytes / _MIB:>9.2f} {r.millis:>9.1f}"
            for r in summary.rounds
        ]
    return "\n".join(lines)


def _field(name: str, value: str) -> str:
    return f"{name + ':':<11}{value}"
