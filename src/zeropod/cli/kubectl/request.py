"""`kubectl zeropod sleep` and `wake`: put containers to sleep or wake them now, and wait for the outcome.

The request is written to the pod's custom resource, where the node's manager carries it out and records the outcome.
The list of requests is changed as it was read, and again after a conflict, so that concurrent requests both count.
"""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import trio

from zeropod.cli.kubectl.cluster import Cluster, CommandError, Object
from zeropod.cli.kubectl.columns import milliseconds
from zeropod.cli.kubectl.why import chosen
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.on_demand import Outcome, Source, Wanted

ATTEMPTS = 5


async def run(cluster: Cluster, options: argparse.Namespace, namespace: str, names: Sequence[str]) -> int:
    wanted = Wanted.ASLEEP if options.command == "sleep" else Wanted.AWAKE
    status = 0
    for name in names:
        resource = await cluster.get(namespace, name)
        containers = [each["name"] for each in chosen(resource, options.container)]
        at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        resource = await _ask(cluster, namespace, resource, containers, wanted, at)
        if options.no_wait:
            print(f"zeropod/{name} {wanted.lower()} requested")
            continue
        for line, good in await _answers(cluster, namespace, resource, containers, at, options.timeout):
            print(line, flush=True) if good else options.complain(line)
            status = status if good else 1
    return status


async def _ask(
    cluster: Cluster, namespace: str, resource: Object, containers: Sequence[str], wanted: Wanted, at: str
) -> Object:
    name = resource["metadata"]["name"]
    for attempt in range(ATTEMPTS):
        if attempt:
            resource = await cluster.get(namespace, name)
        try:
            return await cluster.client.merge_patch(
                cluster.path(namespace, name), patch(resource, containers, wanted, at)
            )
        except ApiError as error:
            if error.status != 409 or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def patch(resource: Object, containers: Iterable[str], wanted: Wanted, at: str) -> Object:
    """Return the patch that adds this request, and keeps those of others."""
    asked = list(containers)
    entries = [{"name": each, "wanted": str(wanted), "requestedAt": at} for each in asked]
    kept = [each for each in (resource.get("spec") or {}).get("containers") or () if each["name"] not in asked]
    version = resource["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version}, "spec": {"containers": [*kept, *entries]}}


async def _answers(
    cluster: Cluster, namespace: str, resource: Object, containers: Sequence[str], at: str, seconds: float
) -> list[tuple[str, bool]]:
    """Wait for a line for each container, and whether all were done. Raises ApiError, CommandError."""
    name, version = resource["metadata"]["name"], resource["metadata"]["resourceVersion"]
    said = answers(resource, containers, at)
    if len(said) < len(containers):
        with trio.move_on_after(seconds):
            async with aclosing(cluster.changes(namespace, name, version)) as changes:
                async for kind, each in changes:
                    if kind == "DELETED":
                        raise CommandError(f'pods "{name}" was deleted')
                    said = answers(each, containers, at)
                    if len(said) == len(containers):
                        break
    if len(said) < len(containers):
        node = (resource.get("status") or {}).get("nodeName", "its node")
        raise CommandError(
            f"timed out waiting for the condition on zeropods/{name}: the manager of {node} has not answered within "
            f"{seconds:g} s. It waits for a container to be ready before it puts it to sleep"
        )
    return said


def answers(resource: Object, containers: Sequence[str], at: str) -> list[tuple[str, bool]]:
    """Return a line for each container with an outcome, and whether it was done."""
    name, said = resource["metadata"]["name"], []
    there = {each["name"]: each for each in (resource.get("status") or {}).get("containers") or ()}
    for container in containers:
        each = there.get(container, {})
        for request in each.get("requests") or ():
            if request["source"] != Source.SPEC or not is_same(request.get("requestedAt", ""), at):
                continue
            if request["outcome"] != Outcome.DONE:
                reason = request.get("reason") or request["outcome"].lower()
                said.append((f"{name}/{container}: {reason}", False))
            elif request["wanted"] == Wanted.AWAKE and "lastWakeMilliseconds" in each:
                said.append(
                    (f"{name}/{container}: {each['state']}, woke in {milliseconds(each['lastWakeMilliseconds'])}", True)
                )
            else:
                said.append((f"{name}/{container}: {each['state']}", True))
    return said


def is_same(one: str, other: str) -> bool:
    """Return whether two times are equal, however they are written."""
    try:
        first, second = (datetime.fromisoformat(each) for each in (one, other))
    except ValueError:
        return False
    return first == second
