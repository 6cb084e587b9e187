"""`make test` runs every test there is, each in one group."""

from __future__ import annotations

from pathlib import Path

from tests.run import FIRST_HALF, lanes

TESTS = Path(__file__).parents[1]


def test_every_file_is_in_one_group() -> None:
    groups = [group for lane in lanes() for group in lane]
    found: list[Path] = []
    for place in (TESTS.parent / place for group in groups for place in group.places):
        found += [place] if place.is_file() else place.rglob("test_*.py")
    assert sorted(found) == sorted(TESTS.rglob("test_*.py"))


def test_both_halves_have_files_and_hosts_of_their_own() -> None:
    first, second = (lane[-1] for lane in lanes())
    assert len(first.places) == len(FIRST_HALF)
    assert second.places
    assert first.hosts != second.hosts
