"""`just bench [NAME…] [--runs N]`: measures ours beside containerd's own shim; prints a table, writes build/bench.json.

The fields of build/bench.json: `name`, `unit`, `ours` and `peer` (medians), `peer_name`, `ratio` (ours to the peer's),
`min`, `max` and `p99` of ours, `peer_min`, `peer_max`, `runs`, `higher_is_better`.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import awake, standby, wake
from tests.bench.figures import Figure, table, write
from tests.integration.containerd import Containerd

RESULT = Path(__file__).parents[2] / "build" / "bench.json"

BENCHMARKS: dict[str, tuple[Callable[[Containerd, int], list[Figure]], int]] = {
    "standby": (standby.new_connection, 100),
    "memory": (standby.much_memory, 20),
    "connections": (standby.established, 100),
    "cold": (wake.cold, 15),
    "requests": (awake.requests, 5),
    "logs": (awake.logs, 5),
    "starts": (awake.starts, 10),
}
"""Each with how often it measures unless told."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run, of {', '.join(BENCHMARKS)} (all)")
    parser.add_argument("--runs", type=int, help="samples of each")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    figures: list[Figure] = []
    with Containerd() as client:
        for name in options.names or BENCHMARKS:
            measure, runs = BENCHMARKS[name]
            print(f"{name} …", file=sys.stderr, flush=True)
            figures += measure(client, options.runs or runs)
    print(
        f"\non {os.cpu_count()} CPUs, Linux {os.uname().release}; medians, and the least to the most in parentheses\n"
    )
    print(table(figures))
    write(RESULT, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
