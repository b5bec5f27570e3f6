"""`kubectl zeropod why`: everything that keeps a pod's containers awake, and what to do about it."""

import argparse
from collections.abc import Sequence

from zeropod.cli.kubectl.cluster import Cluster, CommandError, Object
from zeropod.cli.kubectl.columns import ago
from zeropod.cli.kubectl.ps import as_json


async def run(cluster: Cluster, options: argparse.Namespace, namespace: str, names: Sequence[str]) -> int:
    found = [await cluster.get(namespace, name) for name in names]
    if options.output == "json":
        print(as_json(found, single=len(names) == 1))
        return 0
    for each in found:
        for container in chosen(each, options.container):
            print(as_text(each, container), flush=True)
    return 0


def chosen(resource: Object, name: str = "") -> list[Object]:
    """Return the selected containers. Raises CommandError if there is none of this name."""
    containers: list[Object] = (resource.get("status") or {}).get("containers") or []
    if not name:
        return containers
    if found := [each for each in containers if each["name"] == name]:
        return found
    raise CommandError(f"container {name} is not valid for pod {resource['metadata']['name']}")


def as_text(resource: Object, container: Object, now: float | None = None) -> str:
    """Return the reasons, one per line, each followed by its remedy."""
    name = f"{resource['metadata']['name']}/{container['name']}"
    lines = [f"{name}: {container['state']} for {ago(container['since'], now)}"]
    reasons = container.get("reasons") or [{"kind": "state", "text": container.get("why", "")}]
    for reason in reasons:
        if reason["text"]:
            lines += _lines(reason["kind"], reason["text"], reason.get("remedy", ""))
    for request in container.get("requests") or ():
        if request["outcome"] != "Done":
            said = f"{request['wanted']} was wanted {ago(request['at'], now)} ago: {request['outcome'].lower()}"
            lines += _lines("request", f"{said}, {request.get('reason', 'without a reason')}.", "")
    if problem := (resource.get("status") or {}).get("problem"):
        lines += _lines("annotation", f"{problem}.", "")
    return "\n".join(lines)


def _lines(kind: str, text: str, remedy: str) -> list[str]:
    return [f"  {kind:<10}  {text}", *([f"  {'':<10}  > {remedy}"] if remedy else [])]
