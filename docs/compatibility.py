#!/usr/bin/env python3
"""Writes the table of docs/compatibility.md from what the compatibility suite has seen, in build/results/compat.

A machine of its own is what users have, so what was seen there counts; but a time that was seen on real hardware is
better than an emulated one. An application that was not seen again keeps its row.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = ROOT / "build" / "results" / "compat"
PART = re.compile(r"(<!-- recorded: compatibility -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| application | standby | cold | connections | image | wake | note |\n|---|---|---|---|---|---|---|\n"
MEBIBYTE = 1 << 20

Seen = Mapping[str, Any]


def rows(seen: Iterable[Seen], page: str) -> dict[str, str]:
    """The table's rows by application: those of the page, and in their places those that were seen."""
    found = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    found.pop("application", None)
    by_application: dict[str, list[Seen]] = {}
    for each in seen:
        by_application.setdefault(each["application"], []).append(each)
    return found | {title: row(title, every) for title, every in by_application.items()}


def row(title: str, every: list[Seen]) -> str:
    depths = [[each for each in every if each["depth"] == depth] for depth in ("STANDBY", "COLD")]
    # The machine's word comes last, and counts.
    last = [sorted(each, key=lambda seen: bool(seen["machine"]))[-1:] for each in depths]
    counted = [seen for each in last for seen in each]
    yes_or_no = ["?" if not each else "yes" if each[0]["wakes"] else "no" for each in last]
    asleep = [seen for seen in counted if seen["sleeps"]]
    connections = "-" if not asleep else "yes" if all(seen["connection"] for seen in asleep) else "no"
    image = max((seen["image"] for seen in counted), default=0)
    why = "; ".join(dict.fromkeys(f"*{seen['why']}*" for seen in counted if seen["why"]))
    cells = (
        title,
        *yes_or_no,
        connections,
        f"{image / MEBIBYTE:.1f} MiB" if image else "-",
        " / ".join(time(each) for each in depths) if asleep else "-",
        "; ".join(filter(None, (every[0]["note"], why))),
    )
    return f"| {' | '.join(cells)} |"


def time(every: list[Seen]) -> str:
    """The time, of real hardware if there is one."""
    times = {each["emulated"]: each["wake_ms"] for each in every if each["wakes"]}
    if not times:
        return "-"
    shortest = times[min(times)]
    text = f"{shortest:.0f} ms" if shortest >= 10 else f"{shortest:.1f} ms"
    return f"*{text}*" if min(times) else text


def main() -> int:
    seen = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    if not seen:
        sys.stderr.write(f"nothing was seen in {RESULTS}: run ./justw compat or ./justw compat-vm first\n")
        return 1
    page = PAGE.read_text()
    table = HEAD + "\n".join(line for _, line in sorted(rows(seen, page).items(), key=lambda each: each[0].lower()))
    PAGE.write_text(PART.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
