"""`just bench [NAME…] [--quick]`: measures ours beside containerd's own shim; prints a table, writes build/bench.json.

What is in that file says tests/bench/figures.py. `just plots` draws it.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.bench import awake, cache, fall, idle, many, pods, start, wake, window
from tests.bench.containers import import_applications
from tests.bench.figures import Figure, table, write
from tests.bench.scale import Scale
from tests.integration.containerd import Containerd

RESULT = Path(__file__).parents[2] / "build" / "bench.json"

BENCHMARKS: dict[str, Callable[[Containerd, Scale], list[Figure]]] = {
    "standby": wake.standby,
    "cold": wake.cold,
    "window": window.window,
    "fall": fall.fall,
    "cache": cache.cache,
    "idle": idle.idle,
    "pods": pods.pods,
    "start": start.start,
    "requests": awake.requests,
    "logs": awake.logs,
    "many": many.many,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run, of {', '.join(BENCHMARKS)} (all)")
    parser.add_argument("--quick", action="store_true", help="less of everything, in less than three minutes")
    parser.add_argument("--runs", type=int, help="samples of each figure")
    parser.add_argument("--pods", type=int, nargs="+", help="how many sleep, for `many` (20 100 200; quick: 10)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    numbers = tuple(options.pods or ((10,) if options.quick else (20, 100, 200)))
    scale = Scale(options.quick, options.runs, numbers)
    figures: list[Figure] = []
    with Containerd() as client:
        if not options.quick:
            import_applications(client)
        for name in options.names or BENCHMARKS:
            print(f"{name} …", file=sys.stderr, flush=True)
            found = [replace(figure, subject=name) for figure in BENCHMARKS[name](client, scale)]
            figures += found
            print(table(found), file=sys.stderr, flush=True)
            write(RESULT, figures)
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    print(f"\non {os.cpu_count()} CPUs, Linux {os.uname().release}, load {load} at the end; medians, and the least to")
    print("the most in parentheses\n")
    print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
