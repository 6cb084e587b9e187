"""What the benchmark found, as a table for people, JSON for programs, and bars that must hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.moving import Series

_MEASURES = {"downtime_ms": "gap_ms", "total_ms": "total_ms", "sent_bytes": "sent_bytes"}


@dataclass(frozen=True)
class Bar:
    """One ratio and where it must lie."""

    name: str
    value: float
    limit: float
    at_most: bool = True

    @property
    def holds(self) -> bool:
        """Tell whether the value keeps the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        verdict = "holds" if self.holds else "MISSED"
        return f"{verdict}: {self.name}: {self.value:.3f} ({sign} {self.limit:.3f})"


def as_json(found: Sequence[Series]) -> list[dict[str, Any]]:
    """Return one object a series: medians, with ``_min`` and ``_max`` beside them."""
    objects = []
    for series in found:
        entry: dict[str, Any] = {
            "workload": series.workload,
            "mode": series.mode,
            "resident_mib": series.resident_mib,
        }
        for name, source in {**_MEASURES, "rounds": "rounds"}.items():
            values = series.values(source)
            entry[name] = series.median(source)
            entry[f"{name}_min"], entry[f"{name}_max"] = min(values), max(values)
        entry["moves"] = len(series.trips)
        objects.append(entry)
    return objects


def as_table(found: Sequence[Series]) -> Iterator[str]:
    """Yield the lines of a Markdown table: medians, with the least and the most."""
    yield "| pages rewritten | mode | MiB | downtime ms (min-max) | total ms | sent MiB | rounds |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for series in found:
        gaps = series.values("gap_ms")
        yield (
            f"| {series.workload} | {series.mode} | {series.resident_mib} "
            f"| {series.median('gap_ms'):.1f} ({min(gaps):.1f}-{max(gaps):.1f}) "
            f"| {series.median('total_ms'):.0f} | {series.median('sent_bytes') / (1 << 20):.1f} "
            f"| {series.median('rounds'):.0f} |"
        )


def bars(found: Sequence[Series], ssh_rate: float) -> list[Bar]:
    """Return the ratios that the project promises; ``ssh_rate`` is that of `cat | ssh cat` in B/s.

    The sender's memory is what it takes more for the largest container than for the smallest: the
    program itself and its buffers are the same for both.
    """
    fixed = {(each.mode, each.resident_mib): each for each in found if each.workload == "fixed"}
    sizes = sorted({size for _, size in fixed})
    small, large = fixed["live", sizes[0]], fixed["live", sizes[-1]]
    cold = fixed["stop-and-copy", sizes[-1]]
    copied = cold.median("sent_bytes") / cold.median("last_round_s")
    grown = (large.median("source_kib") - small.median("source_kib")) / 1024
    later = [ratio for trip in large.trips for ratio in trip.later_bytes_per_page]
    return [
        Bar(
            f"live downtime at {sizes[-1]} MiB to that at {sizes[0]} MiB",
            large.median("gap_ms") / small.median("gap_ms"),
            1.5,
        ),
        Bar(f"stop-and-copy at {sizes[-1]} MiB to `cat | ssh cat`", copied / ssh_rate, 0.6, False),
        Bar(
            f"live downtime at {sizes[-1]} MiB to stop-and-copy's",
            large.median("gap_ms") / cold.median("gap_ms"),
            1 / 30,
        ),
        Bar("bytes sent to bytes of the fixed pages, third round on", max(later) / 4096, 0.1),
        Bar(
            "growth of the sender's memory to that of the container",
            max(grown, 0) / (sizes[-1] - sizes[0]),
            0.005,
        ),
    ]
