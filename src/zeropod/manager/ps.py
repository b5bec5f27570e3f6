"""`zeropod ps`: lists every container of the runtime on this node with its state, its duration and the reason."""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable
from typing import Any

import trio

from zeropod import paths, shims
from zeropod.manager.node import Node
from zeropod.manager.units import MEBIBYTE, span
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

REFRESH = 1.0
"""Seconds between refreshes of the durations with `--watch`."""

GATHER = 0.1
"""Seconds during which changes are collected before they are shown together."""

_IN_STANDBY = (status_pb2.CHECKPOINTING, status_pb2.STANDBY, status_pb2.DOZING)

_COLUMNS = ("ID", "NAMESPACE", "POD", "CONTAINER", "STATE", "PID", "FOR", "MEMORY", "SLEPT IN", "WOKE IN", "WHY")

_CLEAR = "\x1b[H\x1b[J"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="zeropod ps", description=__doc__)
    parser.add_argument(
        "--json", action="store_true", help="one JSON array (with --watch one a line), times in Unix seconds"
    )
    parser.add_argument("--watch", action="store_true", help="go on until interrupted")
    options = parser.parse_args(arguments)
    status = 0
    try:
        status = trio.run(_watch if options.watch else _look, options.json)
    except* KeyboardInterrupt:
        pass
    except* PermissionError:
        sys.stderr.write(f"zeropod ps: only root may look into {paths.STATUS_SOCKETS}: run it with sudo\n")
        status = 1
    return status


async def _look(as_json: bool) -> int:
    found, silent = await shims.look()
    _show([entry.status for entry in found], as_json, before="")
    _complain(silent)
    return 1 if silent else 0


async def _watch(as_json: bool) -> int:
    """Show every change that the shims report."""
    node, complained = Node(), set[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        while True:
            with trio.move_on_after(math.inf if as_json else REFRESH):
                await node.changed()
            await trio.sleep(GATHER)
            if not node.ready:
                continue
            _show(node.containers, as_json, before=_CLEAR)
            _complain([complaint for complaint in node.silent if complaint not in complained])
            complained = set(node.silent)


def _show(containers: list[ContainerStatus], as_json: bool, before: str) -> None:
    if as_json:
        print(json.dumps([as_dict(status) for status in containers]), flush=True)
    else:
        print(before + table(containers, time.time()), end="", flush=True)


def _complain(silent: Iterable[str]) -> None:
    for complaint in silent:
        sys.stderr.write(f"zeropod ps: a shim did not answer, is it dead? {complaint}\n")


def as_dict(status: ContainerStatus) -> dict[str, Any]:
    """Return the `--json` object of one container, with null for values that do not exist yet."""
    return {
        "id": status.id,
        "namespace": status.pod_namespace or status.namespace,
        "pod": status.pod or None,
        "container": status.container or None,
        "state": state_of(status),
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
        "may_sleep": status.may_sleep,
        "image_bytes": status.image_bytes,
        "memory": memory_of(status),
        "why_kept": status.why_kept or None,
        "refused_sleeps": status.refused_sleeps,
        "dry_run": status.dry_run,
        "dry_run_asleep": status.dry_run_asleep,
        "dry_run_sleeps": status.dry_run_sleeps,
        "dry_run_wakes": status.dry_run_wakes,
        "why": status.why or None,
        "message": status.message or None,
    }


def memory_of(status: ContainerStatus) -> dict[str, Any] | None:
    """Return the `memory` object of `--json` for a container that is, or was, in STANDBY."""
    if not status.memory_backend:
        return None
    return {
        "backend": status.memory_backend,
        "why": status.memory_why or None,
        "out_bytes": status.memory_out_bytes,
        "left_bytes": status.memory_left_bytes,
        "written_bytes": status.memory_written_bytes,
        "faults": status.memory_faults,
        "brought_in_bytes": status.memory_brought_in_bytes,
    }


def state_of(status: ContainerStatus) -> str:
    """Return the name of the state, or its number if a newer shim sends one without a name here."""
    return State.Name(status.state) if status.state in State.values() else str(status.state)


def table(containers: Iterable[ContainerStatus], now: float) -> str:
    """Return a table with aligned columns; `now` in Unix seconds."""
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
        state_of(status),
        str(status.pid or "-"),
        span(now - status.since.ToNanoseconds() / 1e9),
        _memory(status),
        _milliseconds(status.last_checkpoint_ms),
        _milliseconds(status.last_restore_ms),
        status.why,
    )


def _memory(status: ContainerStatus) -> str:
    """Return where the memory is: the backend with MiB out and left in memory, or the image on disk."""
    if status.state == status_pb2.COLD:
        return f"image {_mebibytes(status.image_bytes)}" if status.image_bytes else "-"
    if status.state not in _IN_STANDBY and not status.memory_out_bytes:
        return "-"
    left = _mebibytes(status.memory_left_bytes)
    match status.memory_backend:
        case "":
            return "-"
        case "resident":
            return f"resident {left}"
        case backend:
            return f"{backend} {status.memory_out_bytes / MEBIBYTE:.0f}/{left}"


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.0f} MiB"


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value else "-"
