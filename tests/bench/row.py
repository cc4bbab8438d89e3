"""A line of the result: what was measured, against what, and the goal."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement: medians in `unit`, the goal in words. None: not measured, or no baseline."""

    name: str
    unit: str
    value: float | None
    baseline: float | None = None
    goal: str
    met: bool | None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Value over baseline."""
        return self.value / self.baseline if self.value is not None and self.baseline else None

    def as_dict(self) -> dict[str, object]:
        """The row for bench.json."""
        return {**asdict(self), "ratio": self.ratio}


def at_most(name: str, samples: list[float], limit: float, *, unit: str = "s", note: str = "") -> Row:
    """A row whose median must not exceed a fixed limit."""
    value = statistics.median(samples)
    return Row(name=name, unit=unit, value=value, goal=f"≤ {limit:g} {unit}", met=value <= limit, note=note)


def ratio_at_most(name: str, ours: list[float], plain: list[float], limit: float, *, unit: str = "s") -> Row:
    """A row whose median must not exceed `limit` times the baseline's."""
    value, baseline = statistics.median(ours), statistics.median(plain)
    met = value <= limit * baseline
    return Row(name=name, unit=unit, value=value, baseline=baseline, goal=f"≤ {limit:g} ×", met=met)


def table(rows: list[Row]) -> str:
    """All rows as aligned text."""
    head = ("measurement", "ours", "plain", "ratio", "goal", "")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    def shown(value: float | None, suffix: str) -> str:
        return "" if value is None else f"{value:.2f}{suffix}"

    verdict = {True: "met", False: "MISSED", None: "not measured"}[row.met]
    note = f" ({row.note})" if row.note else ""
    unit = f" {row.unit}"
    ratio = shown(row.ratio, " ×")
    return row.name, shown(row.value, unit), shown(row.baseline, unit), ratio, row.goal, verdict + note
