"""`kubectl zeropod ps`: every container that zeropod runs, whether it sleeps, since when, and why not."""

import argparse
import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from zeropod.cli.kubectl.cluster import Cluster, CommandError, Nothing, Object, order
from zeropod.cli.kubectl.columns import NONE, ago, mebibytes, milliseconds, table

HEADINGS = ("POD", "CONTAINER", "STATE", "FOR", "MEMORY", "WAKES", "WOKE IN", "WHY")
WIDE = ("POD", "CONTAINER", "STATE", "FOR", "MEMORY", "SLEEPS", "WAKES", "LAST WAKE", "WOKE IN", "NODE", "WHY")


async def run(cluster: Cluster, options: argparse.Namespace, namespace: str, names: Sequence[str]) -> int:
    if options.watch and len(names) > 1:
        raise CommandError("you may only watch a single pod, or all of a namespace")
    shown: list[int] = []
    version = ""
    if options.watch and not names:
        found, version = await cluster.all_in(namespace)
    else:
        found = await cluster.some(namespace, names)
        version = found[0]["metadata"]["resourceVersion"] if found else ""
    if options.output == "json":
        if options.watch:
            for each in found:
                print(json.dumps(each, indent=4), flush=True)
        else:
            print(as_json(found, single=len(names) == 1))
    elif found:
        _show(found, options, shown, headings=not options.no_headers)
    elif not options.watch:
        raise Nothing(namespace)
    if not options.watch:
        return 0
    known = {order(each): _seen(each) for each in found}
    async with aclosing(cluster.changes(namespace, names[0] if names else "", version)) as changes:
        async for kind, each in changes:
            if options.output == "json":
                print(json.dumps(each, indent=4), flush=True)
            elif kind != "DELETED" and known.get(order(each)) != _seen(each):
                known[order(each)] = _seen(each)
                _show([each], options, shown, headings=not shown and not options.no_headers)
    return 0


def _seen(resource: Object) -> list[list[str]]:
    """Return the printed values of a pod except ages, which change by themselves."""
    return rows_of(resource, wide=True, now=0.0)


def _show(found: Sequence[Object], options: argparse.Namespace, widths: list[int], *, headings: bool) -> None:
    wide = options.output == "wide"
    rows = [row for each in found for row in rows_of(each, wide=wide, namespaced=options.all_namespaces)]
    names = WIDE if wide else HEADINGS
    print(
        table(("NAMESPACE", *names) if options.all_namespaces else names, rows, widths, show=headings),
        end="",
        flush=True,
    )


def rows_of(
    resource: Object, *, wide: bool = False, namespaced: bool = False, now: float | None = None
) -> list[list[str]]:
    """Return a row for each container of a pod."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    rows = []
    for each in status.get("containers") or ():
        before = [metadata["name"], each["name"], each["state"], ago(each["since"], now), memory_of(each)]
        woke = milliseconds(each.get("lastWakeMilliseconds"))
        why = each.get("why", "")
        if wide:
            last = ago(each.get("lastWake"), now)
            row = [*before, str(each["sleeps"]), str(each["wakes"]), last, woke, status.get("nodeName", NONE), why]
        else:
            row = [*before, str(each["wakes"]), woke, why]
        rows.append([metadata["namespace"], *row] if namespaced else row)
    return rows


def memory_of(container: Object) -> str:
    """Return where its memory is: the backend, with MiB out and left."""
    memory = container.get("memory")
    if not memory:
        return NONE
    left = mebibytes(memory["leftBytes"])
    if memory["backend"] == "resident":
        return f"resident {left}"
    return f"{memory['backend']} {mebibytes(memory['givenBackBytes'])}/{left}"


def as_json(found: Sequence[Object], *, single: bool) -> str:
    """Return the output of `kubectl get -o json`: an object, or a List."""
    if single:
        return json.dumps(found[0], indent=4)
    made: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}}
    return json.dumps({**made, "items": list(found)}, indent=4)
