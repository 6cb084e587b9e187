"""What people and programs see of a move."""

from __future__ import annotations

import io
import json
import os
import pty
import re

import pytest

from docker_livemig import progress
from docker_livemig.requests import MoveSummary, Progress, RoundStat
from livemig.errors import NoPlugin

MIB = 1 << 20
STEPS = [
    Progress("prepare", "preparing"),
    Progress("round", "copying", 1, 100, MIB, 100.0 * MIB, 9),
    Progress("round", "copying", 1, 256, 2 * MIB, 120.0 * MIB, 7),
    Progress("round", "copying", 2, 7, 4096, 0.0, 0),
    Progress("freeze", "stopping the container"),
]
ERROR = NoPlugin("b: docker-livemig is not installed", hint="install it")
SUMMARY = MoveSummary(
    container="web",
    container_id="0123456789abcdef" * 4,
    source="a",
    target="b",
    mode="live",
    tracker="write-protect",
    layout="stub",
    rounds=[RoundStat(1, 4096, 100, 0, 3996, 16 * MIB, 40.5), RoundStat(2, 7, 0, 7, 0, 512, 1.25)],
    downtime_ms=23.456,
    total_ms=2310.0,
    sent_bytes=17 * MIB,
    steps={"freeze": 3.14, "commit": 9.0},
    notes=["the address changed"],
)


def show(mode: str, stream: io.StringIO) -> progress.Display:
    display = progress.make(mode, stream)
    for step in STEPS:
        display.update(step)
    return display


def test_plain_lines() -> None:
    stream = io.StringIO()
    display = show("plain", stream)
    display.note("cancelling")
    display.error(ERROR)
    assert stream.getvalue().splitlines() == [
        "preparing",
        "copying (round 1): 256 pages, 2.0 MiB, 120 MiB/s, 7 dirty",
        "copying (round 2): 7 pages, 0.0 MiB",
        "stopping the container",
        "cancelling",
        "Error: b: docker-livemig is not installed",
        "Hint: install it",
    ]


def test_the_last_round_is_not_kept_back() -> None:
    stream = io.StringIO()
    display = progress.make("plain", stream)
    display.update(STEPS[1])
    display.finish()
    display.finish()
    assert stream.getvalue() == "copying (round 1): 100 pages, 1.0 MiB, 100 MiB/s, 9 dirty\n"


def test_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    display = show("tty", stream)
    assert "\n" not in stream.getvalue()
    shown = stream.getvalue().split("\r\x1b[K")
    assert shown[2] == "copying (round 1): 100 pages,"
    display.error(ERROR)
    assert re.search(r"\r\x1b\[KError: b: docker-livemig is not installed\n", stream.getvalue())


def test_json_lines() -> None:
    stream = io.StringIO()
    display = show("json", stream)
    display.note("cancelling")
    display.error(ERROR)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[1]["progress"]["pages"] == 100
    assert lines[-2] == {"note": "cancelling"}
    assert lines[-1]["error"] == {
        "code": "no-plugin",
        "message": "b: docker-livemig is not installed",
        "hint": "install it",
    }
    assert len(lines) == len(STEPS) + 2


def test_quiet_shows_errors_only() -> None:
    stream = io.StringIO()
    display = show("quiet", stream)
    display.note("cancelling")
    assert stream.getvalue() == ""
    display.error(ERROR)
    assert stream.getvalue().startswith("Error: ")


def test_auto_looks_at_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert type(progress.make("auto", io.StringIO())) is progress.PlainDisplay
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        assert type(progress.make("auto", stream)) is progress.TerminalDisplay
        monkeypatch.setenv("TERM", "dumb")
        assert type(progress.make("auto", stream)) is progress.PlainDisplay
    os.close(master)


def test_a_closed_stream_disturbs_nothing() -> None:
    stream = io.StringIO()
    display = progress.make("plain", stream)
    stream.close()
    display.update(STEPS[0])
    display.error(ERROR)


def test_summary_for_people() -> None:
    text = progress.summary_table(SUMMARY)
    assert "web (0123456789ab)" in text
    assert re.search(r"^Mode: +live \(write-protect, stub\)$", text, re.M)
    assert re.search(r"^Downtime: +23\.5 ms \(freeze 3\.1, commit 9\.0\)$", text, re.M)
    assert re.search(r"^Total: +2\.31 s$", text, re.M)
    assert re.search(r"^Sent: +17\.0 MiB$", text, re.M)
    assert re.search(r"^Note: +the address changed$", text, re.M)
    assert re.search(r"^ +1 +4096 +100 +0 +3996 +16\.00 +40\.5$", text, re.M)


def test_summary_for_programs() -> None:
    data = json.loads(progress.summary_json(SUMMARY))
    assert data["rounds"][1]["delta"] == 7
    assert data["downtime_ms"] == 23.456
    assert data["container_id"] == SUMMARY.container_id
