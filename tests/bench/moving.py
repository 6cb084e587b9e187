"""Move the recorder to and fro between two hosts, and measure what its users notice."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.attachment import Attachment
from tests.docker.moves import LIMIT, move
from tests.hosts import RECORDER
from tests.place import Place

NAME = "bench"
MODES = ("live", "stop-and-copy")
SIZES = (16, 256, 1024)
_ANSWER = 60.0


@dataclass(frozen=True)
class Trip:
    """One move: the gap that the recorder saw in its own ticks, and the plugin's summary."""

    gap_ms: float
    summary: dict[str, Any]

    @property
    def later_bytes_per_page(self) -> list[float]:
        """Bytes on the link for each page, for each round from the third on."""
        rounds = self.summary["rounds"][2:]
        return [each["bytes"] / each["pages"] for each in rounds if each["pages"]]


@dataclass
class Series:
    """Moves of one workload, in one size and mode."""

    workload: str
    mode: str
    resident_mib: int
    trips: list[Trip] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """Return one measure of all trips: one of these names, or a field of the summary."""
        if name == "gap_ms":
            return [trip.gap_ms for trip in self.trips]
        if name == "rounds":
            return [float(len(trip.summary["rounds"])) for trip in self.trips]
        if name == "last_round_s":
            return [trip.summary["rounds"][-1]["millis"] / 1000 for trip in self.trips]
        return [float(trip.summary[name]) for trip in self.trips]

    def median(self, name: str) -> float:
        """Return the median of a measure."""
        return statistics.median(self.values(name))


def ask(host: Place, line: str) -> str:
    """Type a line into the recorder and return its report."""
    with Attachment(str(host.socket), NAME) as attachment:
        attachment.send(line)
        while "gap_us=" not in (answer := attachment.line(_ANSWER)):
            pass
    return answer


@contextmanager
def recorder(host: Place, pair: Sequence[Place], mebibytes: int, choice: str) -> Iterator[None]:
    """Run the recorder with that much memory, ticking, until the scope ends."""
    options = ["--tick", "/dev/null", "--heap", str(mebibytes), "--rewrite", choice]
    host.run(["docker", "run", "-d", "-i", "--name", NAME, RECORDER, *options])
    try:
        ask(host, "-1")
        yield
    finally:
        for each in pair:
            each.run(["docker", "rm", "-f", NAME], check=False)


def measure(pair: Sequence[Place], mebibytes: int, choice: str, moves: int) -> list[Series]:
    """Move to and fro, the modes by turns, ``moves`` times each."""
    found = [Series(choice, mode, mebibytes) for mode in MODES]
    place = 0
    with recorder(pair[0], pair, mebibytes, choice):
        for _ in range(moves):
            for series in found:
                series.trips.append(trip(pair[place], pair[1 - place], series.mode))
                place = 1 - place
                last = series.trips[-1]
                print(
                    f"{choice} {mebibytes} MiB {series.mode}: {last.gap_ms:.1f} ms gap, "
                    f"{last.summary['downtime_ms']:.1f} ms downtime, "
                    f"{last.summary['total_ms']:.0f} ms in all "
                    + " ".join(f"{k} {v:.1f}" for k, v in last.summary["steps"].items()),
                    file=sys.stderr,
                )
    return found


def trip(source: Place, target: Place, mode: str, limit: float = LIMIT) -> Trip:
    """Move it once, within so many seconds, and hear from it what it saw."""
    ask(source, "-1")
    summary = move(source, NAME, target, "--mode", mode, limit=limit)
    report = ask(target, "0")
    if "heap=intact" not in report:
        raise AssertionError(f"the recorder's memory is damaged: {report}")
    return Trip(int(report.split("gap_us=")[1].split()[0]) / 1000, summary)
