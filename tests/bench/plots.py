"""`just plots`: draws build/bench.json as docs/images/*.png, on the host, with matplotlib, which nothing else needs."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "build" / "bench.json"
TARGET = ROOT / "docs" / "images"

OURS, PEER, SPREAD = "#2563eb", "#9ca3af", "#1e293b"
SIZES = {"redis 5 MB": 5, "redis 60 MB": 60, "redis 350 MB": 350, "redis 1 GB": 1000, "redis 2 GB": 2000}

Row = dict[str, Any]


def main() -> int:
    try:
        rows: list[Row] = json.loads(SOURCE.read_text())
    except (OSError, ValueError) as error:
        print(f"plots: {SOURCE} cannot be drawn ({error}); `just bench` writes it", file=sys.stderr)
        return 1
    plt.switch_backend("Agg")  # there may be no display
    TARGET.mkdir(exist_ok=True)
    wakes("STANDBY", "the same request, awake", rows)
    wakes("COLD", "runc restore, eager", rows)
    window(rows)
    many(rows)
    return 0


def wakes(state: str, peer: str, rows: list[Row]) -> None:
    """A bar for each application: median, with a line from the least to the most, beside the peer's."""
    start = f"{state}, new connection, "
    chosen = [row for row in rows if row["name"].startswith(start) and row["peer_name"] == peer]
    if not chosen:
        return
    names = [row["name"].removeprefix(start) for row in chosen]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.6 * len(chosen)), layout="constrained")
    for offset, key, low, high, color, label in (
        (-0.2, "ours", "min", "max", OURS, f"wake from {state}"),
        (0.2, "peer", "peer_min", "peer_max", PEER, peer),
    ):
        values = [row[key] for row in chosen]
        spread = [[row[key] - row[low] for row in chosen], [row[high] - row[key] for row in chosen]]
        places = [number + offset for number in range(len(chosen))]
        axes.barh(places, values, 0.38, color=color, label=label, xerr=spread, ecolor=SPREAD, capsize=2)
        for place, row, value in zip(places, chosen, values, strict=True):
            axes.annotate(f"  {value:,.1f}", (row[high], place), va="center", fontsize=8)
    axes.set_yticks(range(len(chosen)), names)
    axes.invert_yaxis()
    _plain_log(axes.xaxis, axes.set_xscale)
    axes.margins(x=0.1)
    axes.set_xlabel("ms to the first byte on a new connection: median, least to most")
    _save(figure, axes, f"wake-{state.lower()}.png")


def window(rows: list[Row]) -> None:
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    drawn = False
    for state, color in (("STANDBY", OURS), ("COLD", PEER)):
        start = f"scale-down window to {state}, "
        points = [(SIZES[name], row) for row in rows if (name := row["name"].removeprefix(start)) in SIZES]
        if points:
            drawn = True
            sizes, found = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            spread = [[row["ours"] - row["min"] for row in found], [row["max"] - row["ours"] for row in found]]
            values = [row["ours"] for row in found]
            axes.errorbar(sizes, values, spread, marker="o", capsize=3, color=color, label=state)
    if not drawn:
        plt.close(figure)
        return
    _plain_log(axes.yaxis, axes.set_yscale)
    _plain_log(axes.xaxis, axes.set_xscale)
    axes.minorticks_off()
    axes.set_xticks(list(SIZES.values()), [str(size) for size in SIZES.values()])
    axes.set_xlabel("memory of a redis, MB")
    axes.set_ylabel("ms that a request waits at most: median, least to most")
    _save(figure, axes, "window.png")


def many(rows: list[Row]) -> None:
    """What each of many sleeping pods takes."""
    parts = ("shim (PSS), each", "frozen processes, each", "pager, each")
    numbers = sorted({int(found[1]) for row in rows if (found := re.match(r"(\d+) sleeping pods: ", row["name"]))})
    values = {row["name"]: row["ours"] for row in rows}
    if not numbers:
        return
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    bottom = [0.0] * len(numbers)
    for part, color in zip(parts, (OURS, "#60a5fa", PEER), strict=True):
        heights = [values.get(f"{number} sleeping pods: {part}", 0.0) for number in numbers]
        axes.bar(range(len(numbers)), heights, 0.5, bottom, color=color, label=part)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(range(len(numbers)), [f"{number} pods" for number in numbers])
    axes.set_ylabel("MiB a pod")
    axes.set_ylim(0, 1.5 * max(bottom))  # room for the legend
    _save(figure, axes, "many.png")


def _plain_log(axis: Any, set_scale: Any) -> None:
    """A logarithmic axis with numbers that people read."""
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _save(figure: Any, axes: Any, name: str) -> None:
    axes.legend()
    axes.grid(axis="both", alpha=0.3)
    axes.set_axisbelow(True)
    # Without the version in it, the same figures are the same bytes.
    figure.savefig(TARGET / name, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(TARGET / name)


if __name__ == "__main__":
    sys.exit(main())
