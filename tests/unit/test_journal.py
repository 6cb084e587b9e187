"""A journal keeps what was promised, and nothing that was not."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from docker_livemig.journal import STATE_DIR, Journal, state_dir
from livemig.errors import ProtocolError
from tests.unit.leftovers import nothing_left

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)


def test_append_and_read(tmp_path: Path) -> None:
    journal = Journal("m1", tmp_path / "deep" / "state")
    assert journal.read() == []
    assert journal.last() is None
    assert not journal.directory.exists()
    journal.append("preparing", container="web", numbers=[1, 2])
    journal.append("committed", state="a detail may have any name", time=3)
    entries = Journal("m1", tmp_path / "deep" / "state").read()
    assert [entry.state for entry in entries] == ["preparing", "committed"]
    assert entries[0].details == {"container": "web", "numbers": [1, 2]}
    assert entries[1].details["time"] == 3
    assert entries[0].time <= entries[1].time
    last = journal.last()
    assert last is not None
    assert last.state == "committed"
    assert journal.directory.stat().st_mode & 0o777 == 0o700


def test_a_boot_makes_all_that_was_before_it_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clock of the host says by now: a Docker that runs was started after it."""
    journal = Journal("m1", tmp_path)
    before = time.time()
    journal.append("held")
    journal.append("held")
    assert before <= journal.since("held") <= journal.read()[1].time
    assert journal.since("ready") == 0.0
    monkeypatch.setattr("docker_livemig.journal._boot", lambda: "another")
    journal.append("ready")
    assert 0.0 < journal.since("held") < 2.0
    assert journal.since("ready") >= before


def test_a_torn_line_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    journal = Journal("m1", tmp_path)
    journal.append("preparing")
    whole = journal.path.read_bytes()
    for cut in range(1, len(whole)):
        journal.path.write_bytes(whole + whole[:cut])
        assert [entry.state for entry in journal.read()] == ["preparing"]
        journal.append("committed")
        assert [entry.state for entry in journal.read()] == ["preparing", "committed"]


@pytest.mark.parametrize(
    "junk",
    [
        *(b"\0" * 50, b"[]", b'{"state": "x"}', b"null", b"\xff"),
        b'{"state": "x", "time": 1' + b"0" * 400 + b', "details": {}}',
    ],
    ids=range(6),
)
def test_junk_is_not_an_entry(tmp_path: Path, junk: bytes) -> None:
    journal = Journal("m1", tmp_path)
    journal.append("preparing")
    with journal.path.open("ab") as file:
        file.write(junk + b"\n")
    journal.append("committed")
    assert [entry.state for entry in journal.read()] == ["preparing", "committed"]


def test_file_and_directory_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    journal = Journal("m1", tmp_path / "state")
    journal.append("preparing")
    assert synced == [
        str(p) for p in (tmp_path / "state", tmp_path, journal.path, journal.path.parent)
    ]
    synced.clear()
    journal.append("committed")
    assert synced[0] == str(journal.path)


def test_a_line_that_did_not_get_to_the_disk_was_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A "committed" that failed leaves the container to its source, which runs on."""
    journal = Journal("m1", tmp_path)
    journal.append("freezing")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no room"):
            journal.append("committed")
    assert journal.state == "freezing"


def test_remove(tmp_path: Path) -> None:
    journal = Journal("m1", tmp_path)
    journal.append("preparing")
    journal.remove()
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_all_journals_of_a_host(tmp_path: Path) -> None:
    assert list(Journal.all(tmp_path / "none")) == []
    for move_id in ("b", "a"):
        Journal(move_id, tmp_path).append("preparing")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hold").mkdir()
    assert [journal.move_id for journal in Journal.all(tmp_path)] == ["a", "b", "empty"]
    assert Journal("empty", tmp_path).state == ""


def test_a_move_has_one_owner(tmp_path: Path) -> None:
    mine, other = Journal("m1", tmp_path), Journal("m1", tmp_path)
    mine.begin("preparing")
    assert not other.take(0.1)
    assert mine.take()
    mine.leave()
    assert other.take()
    with pytest.raises(ProtocolError, match="the move m1 is known on this host already"):
        mine.begin("preparing")
    other.remove()
    assert mine.take()
    mine.begin("again")
    assert mine.state == "again"
    mine.remove()


def test_a_move_begins_while_somebody_looks_at_all_of_them(tmp_path: Path) -> None:
    """Who sweeps has each journal to himself for a moment, the new one's directory too."""
    journal, other = Journal("m1", tmp_path), Journal("m1", tmp_path)
    journal.directory.mkdir()
    assert other.take()
    looked = threading.Timer(0.3, other.leave)
    looked.start()
    try:
        journal.begin("begun")
    finally:
        looked.join()
    assert journal.state == "begun"
    journal.remove()


def test_details_add_up(tmp_path: Path) -> None:
    journal = Journal("m1", tmp_path)
    journal.append("preparing", container="web", number=1)
    journal.append("committed", number=2)
    assert journal.details() == {"container": "web", "number": 2}


@pytest.mark.parametrize(
    "move_id", ["", "..", ".x", "a/b", "../../etc", "a" * 65, "a\0b", "-x", "a\n"]
)
def test_an_id_that_leads_elsewhere_is_refused(move_id: str) -> None:
    with pytest.raises(ProtocolError, match="move ID"):
        Journal(move_id)


def test_the_place_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEMIG_STATE_DIR", raising=False)
    assert state_dir() == STATE_DIR == Path("/var/lib/livemig")
    monkeypatch.setenv("LIVEMIG_STATE_DIR", str(tmp_path))
    assert Journal("m1").path == tmp_path / "m1" / "journal"
