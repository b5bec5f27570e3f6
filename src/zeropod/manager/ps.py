"""`zeropod ps`: every container of the runtime on this node, whether it sleeps, since when, and why not."""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from typing import Any

import trio

from zeropod.manager import shims
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

REFRESH = 0.5
"""Seconds between two looks of `--watch`."""

_COLUMNS = ("ID", "NAMESPACE", "POD", "CONTAINER", "STATE", "PID", "FOR", "SLEPT IN", "WOKE IN", "WHY")
_CLEAR = "\x1b[H\x1b[J"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="zeropod ps", description=__doc__)
    parser.add_argument(
        "--json", action="store_true", help="one JSON array (with --watch one a line), times in Unix seconds"
    )
    parser.add_argument("--watch", action="store_true", help="go on until interrupted")
    options = parser.parse_args(arguments)
    try:
        return trio.run(_run, options.json, options.watch)
    except KeyboardInterrupt:
        return 0
    except PermissionError:
        sys.stderr.write(f"zeropod ps: only root may look into {shims.SOCKETS}: run it with sudo\n")
        return 1


async def _run(as_json: bool, watch: bool) -> int:
    while True:
        containers, silent = await shims.containers()
        if as_json:
            print(json.dumps([as_dict(status) for status in containers]), flush=True)
        else:
            print((_CLEAR if watch else "") + table(containers, time.time()), end="", flush=True)
        for complaint in silent:
            sys.stderr.write(f"zeropod ps: a shim did not answer, is it dead? {complaint}\n")
        if not watch:
            return 1 if silent else 0
        await trio.sleep(REFRESH)


def as_dict(status: ContainerStatus) -> dict[str, Any]:
    """What `--json` says of one container; null where there is nothing yet."""
    return {
        "id": status.id,
        "namespace": status.pod_namespace or status.namespace,
        "pod": status.pod or None,
        "container": status.container or None,
        "state": State.Name(status.state),
        "pid": status.pid or None,
        "since": status.since.ToNanoseconds() / 1e9,
        "last_checkpoint_ms": round(status.last_checkpoint_ms, 3) or None,
        "last_restore_ms": round(status.last_restore_ms, 3) or None,
        "checkpoints": status.checkpoints,
        "restores": status.restores,
        "checkpoint_errors": status.checkpoint_errors,
        "restore_errors": status.restore_errors,
        "probes_answered": status.probes_answered,
        "dozes": status.dozes,
        "why": status.why or None,
        "message": status.message or None,
    }


def table(containers: Iterable[ContainerStatus], now: float) -> str:
    """Aligned columns; `now` in Unix seconds."""
    rows = [_COLUMNS, *(_row(status, now) for status in containers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def _row(status: ContainerStatus, now: float) -> tuple[str, ...]:
    return (
        status.id[:13],
        status.pod_namespace or status.namespace,
        status.pod or "-",
        status.container or "-",
        State.Name(status.state),
        str(status.pid or "-"),
        span(now - status.since.ToNanoseconds() / 1e9),
        _milliseconds(status.last_checkpoint_ms),
        _milliseconds(status.last_restore_ms),
        status.why,
    )


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value else "-"


def span(seconds: float) -> str:
    """A time span in the two largest of its units, as kubectl writes ages."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"
