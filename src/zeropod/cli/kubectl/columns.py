"""Tables and times in kubectl's format."""

import time
from collections.abc import Sequence
from datetime import datetime

from zeropod.manager.units import MEBIBYTE, span

NONE = "-"
GAP = 3
"""Spaces between columns."""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], widths: list[int], *, show: bool = True) -> str:
    """Return aligned lines. `widths` are those of earlier lines, and grow."""
    shown = [headings, *rows] if show else list(rows)
    for row in shown:
        for place, cell in enumerate(row):
            if place == len(widths):
                widths.append(0)
            widths[place] = max(widths[place], len(cell))
    gap = " " * GAP
    lines = (gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown)
    return "".join(f"{line}\n" for line in lines)


def ago(timestamp: str | None, now: float | None = None) -> str:
    """Return the time since then, like kubectl's ages."""
    if not timestamp:
        return NONE
    try:
        at = datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return "<unknown>"
    return span((time.time() if now is None else now) - at)


def mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.0f}Mi" if size else "0"


def milliseconds(value: float | None) -> str:
    """Return a duration, with one decimal below ten."""
    if value is None:
        return NONE
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
