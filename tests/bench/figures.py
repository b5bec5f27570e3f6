"""What a benchmark has found: samples of ours and of the peer, taken in turns, and what is said of them."""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANY = 50
"""Samples from which on the 99th percentile is worth a word."""


@dataclass(frozen=True)
class Figure:
    name: str
    unit: str
    ours: list[float]
    peer: list[float]
    peer_name: str = "containerd-shim-runc-v2"
    higher_is_better: bool = False

    @property
    def ratio(self) -> float:
        """Ours to the peer's, of the medians."""
        return statistics.median(self.ours) / statistics.median(self.peer)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": statistics.median(self.ours),
            "peer": statistics.median(self.peer),
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "min": min(self.ours),
            "max": max(self.ours),
            "p99": percentile(self.ours, 99),
            "peer_min": min(self.peer),
            "peer_max": max(self.peer),
            "runs": len(self.ours),
            "higher_is_better": self.higher_is_better,
        }

    def row(self) -> tuple[str, ...]:
        return (
            self.name,
            _spread(self.ours, self.unit),
            _spread(self.peer, self.unit),
            f"{self.ratio:.2f}",
            self.peer_name,
        )


def percentile(samples: list[float], percent: int) -> float:
    """The smallest sample that at least so many percent do not exceed (nearest rank)."""
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


def _spread(samples: list[float], unit: str) -> str:
    low, middle, high = min(samples), statistics.median(samples), max(samples)
    tail = f", p99 {percentile(samples, 99):,.1f}" if len(samples) >= MANY else ""
    return f"{middle:,.1f} {unit} ({low:,.1f} to {high:,.1f}{tail}, n={len(samples)})"


def table(figures: Iterable[Figure]) -> str:
    rows = [("what", "ours", "peer", "ratio", "the peer is"), *(figure.row() for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def write(path: Path, figures: Iterable[Figure]) -> None:
    path.write_text(json.dumps([figure.as_dict() for figure in figures], indent=2) + "\n")
