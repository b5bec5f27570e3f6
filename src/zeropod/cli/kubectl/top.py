"""`kubectl zeropod top`: pods by the memory that they have given back, or by their number of wakes."""

import argparse
from collections.abc import Sequence

from zeropod.cli.kubectl.cluster import Cluster, Nothing, Object
from zeropod.cli.kubectl.columns import NONE, ago, mebibytes, milliseconds, table
from zeropod.cli.kubectl.ps import as_json

HEADINGS = ("POD", "ASLEEP", "GIVEN BACK", "LEFT", "SLEEPS", "WAKES", "LAST WAKE", "WOKE IN")
SORTS = ("memory", "wakes", "sleeps")


async def run(cluster: Cluster, options: argparse.Namespace, namespace: str, names: Sequence[str]) -> int:
    found = ordered(await cluster.some(namespace, names), options.sort_by)
    if options.output == "json":
        print(as_json(found, single=False))
        return 0
    if not found:
        raise Nothing(namespace)
    rows = [row_of(each, namespaced=options.all_namespaces) for each in found]
    if options.sum:
        rows.append(sum_of(found, namespaced=options.all_namespaces))
    headings = ("NAMESPACE", *HEADINGS) if options.all_namespaces else HEADINGS
    print(table(headings, rows, [], show=not options.no_headers), end="")
    return 0


def ordered(found: Sequence[Object], by: str) -> list[Object]:
    """Return the pods in descending order."""

    def most(resource: Object) -> int:
        return given_back(resource) if by == "memory" else int((resource.get("status") or {}).get(by, 0))

    return sorted(found, key=most, reverse=True)


def given_back(resource: Object) -> int:
    """Return the bytes of memory that are moved out."""
    return sum(each["memory"]["givenBackBytes"] for each in _containers(resource) if "memory" in each)


def left(resource: Object) -> int:
    """Return the bytes that stay in memory while it sleeps."""
    return sum(each["memory"]["leftBytes"] for each in _containers(resource) if "memory" in each)


def row_of(resource: Object, *, namespaced: bool = False, now: float | None = None) -> list[str]:
    metadata, status = resource["metadata"], resource.get("status") or {}
    row = [
        metadata["name"],
        status.get("asleep", NONE),
        mebibytes(given_back(resource)),
        mebibytes(left(resource)),
        str(status.get("sleeps", 0)),
        str(status.get("wakes", 0)),
        ago(status.get("lastWake"), now),
        milliseconds(status.get("lastWakeMilliseconds")),
    ]
    return [metadata["namespace"], *row] if namespaced else row


def sum_of(found: Sequence[Object], *, namespaced: bool = False) -> list[str]:
    """Return the last line, the sum of all pods."""
    statuses = [each.get("status") or {} for each in found]
    asleep = [each.get("asleep", "0/0").split("/") for each in statuses]
    totals = [str(sum(int(each.get(name, 0)) for each in statuses)) for name in ("sleeps", "wakes")]
    row = [
        "" if namespaced else "total",
        "/".join(str(sum(int(each[place]) for each in asleep)) for place in (0, 1)),
        mebibytes(sum(map(given_back, found))),
        mebibytes(sum(map(left, found))),
        *totals,
        "",
        "",
    ]
    return ["total", *row] if namespaced else row


def _containers(resource: Object) -> list[Object]:
    return (resource.get("status") or {}).get("containers") or []
