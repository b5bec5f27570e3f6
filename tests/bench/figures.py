"""What a benchmark has found: samples of ours and of a peer, taken in turns, and what is said of them.

build/bench.json is a list of these, one object a figure:

    subject      which benchmark it belongs to
    name         what was measured
    unit         of all the numbers but `ratio`
    ours, peer   medians; `peer` is null where there is nothing to compare with
    peer_name    what the peer is
    ratio        ours to the peer's, of the medians; or null
    min, max     of ours
    p99          of ours: the smallest sample that 99 % do not exceed
    peer_min, peer_max
    runs         samples of ours
    higher_is_better
    goal         what has to hold, in words; or null
    met          whether it does; or null
"""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MANY = 50
"""Samples from which on the 99th percentile is worth a word."""

RUNC_SHIM = "containerd-shim-runc-v2"


@dataclass(frozen=True, slots=True)
class Goal:
    """The most that the median, the 99th percentile or the ratio may be; the least, if higher is better."""

    of: Literal["ours", "p99", "ratio"]
    limit: float


@dataclass(frozen=True)
class Figure:
    name: str
    unit: str
    ours: list[float]
    peer: list[float] = field(default_factory=list)
    peer_name: str = RUNC_SHIM
    higher_is_better: bool = False
    goals: tuple[Goal, ...] = ()
    subject: str = ""

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ours) / statistics.median(self.peer) if any(self.peer) else None

    def value(self, of: str) -> float | None:
        match of:
            case "ratio":
                return self.ratio
            case "p99":
                return percentile(self.ours, 99)
            case _:
                return statistics.median(self.ours)

    def met(self, goal: Goal) -> bool:
        value = self.value(goal.of)
        if value is None:
            return False
        return value >= goal.limit if self.higher_is_better else value <= goal.limit

    def words(self, goal: Goal) -> str:
        sign, unit = ("≥" if self.higher_is_better else "≤"), (" times" if goal.of == "ratio" else f" {self.unit}")
        return f"{'' if goal.of == 'ours' else goal.of + ' '}{sign} {goal.limit:g}{unit}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "name": self.name,
            "unit": self.unit,
            "ours": statistics.median(self.ours),
            "peer": statistics.median(self.peer) if self.peer else None,
            "peer_name": self.peer_name if self.peer else None,
            "ratio": self.ratio,
            "min": min(self.ours),
            "max": max(self.ours),
            "p99": percentile(self.ours, 99),
            "peer_min": min(self.peer, default=None),
            "peer_max": max(self.peer, default=None),
            "runs": len(self.ours),
            "higher_is_better": self.higher_is_better,
            "goal": ", ".join(map(self.words, self.goals)) or None,
            "met": all(map(self.met, self.goals)) if self.goals else None,
        }

    def row(self) -> tuple[str, ...]:
        return (
            self.name,
            _spread(self.ours, self.unit),
            _spread(self.peer, self.unit) if self.peer else "",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            self.peer_name if self.peer else "",
            ", ".join(f"{self.words(goal)}: {'yes' if self.met(goal) else 'NO'}" for goal in self.goals),
        )


def percentile(samples: list[float], percent: int) -> float:
    """The smallest sample that at least so many percent do not exceed (nearest rank)."""
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


def _spread(samples: list[float], unit: str) -> str:
    low, middle, high = min(samples), statistics.median(samples), max(samples)
    tail = f", p99 {percentile(samples, 99):,.1f}" if len(samples) >= MANY else ""
    many = f" ({low:,.1f} to {high:,.1f}{tail}, n={len(samples)})" if len(samples) > 1 else ""
    return f"{middle:,.1f} {unit}{many}"


def table(figures: Iterable[Figure]) -> str:
    rows = [("what", "ours", "peer", "ratio", "the peer is", "goal"), *(figure.row() for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write(path: Path, figures: Iterable[Figure]) -> None:
    path.write_text(json.dumps([figure.as_dict() for figure in figures], indent=2) + "\n")
