"""`kubectl zeropod migrate`: moves a pod with the memory of its containers, and waits for what becomes of that.

The wish is a Migration that names the pod. The manager of its node has the containers leave at their next stop, and
says so in its status; then the pod is evicted, as a drain does it, so that budgets hold. With --to, and where its
template does not let it move, the pod that is to take over is made beforehand (`to_node`).
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

import trio

from zeropod.cli.kubectl import to_node
from zeropod.cli.kubectl.cluster import Cluster, CommandError, Object
from zeropod.manager.kube.client import path_of
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.migration.names import COMPLETED, FINAL, GROUP_VERSION, PLURAL
from zeropod.manager.migration.pods import Pod, read_pod
from zeropod.manager.migration.resource import Migration, body_of, keep

HEARD = 30.0
"""Seconds for the manager of the pod's node to say that it has heard."""
LATER = ("StatefulSet", "DaemonSet")
"""Owners that replace a pod only when it is gone."""

_T = TypeVar("_T")


async def run(cluster: Cluster, options: argparse.Namespace, namespace: str, names: Sequence[str]) -> int:
    status = 0
    for name in names:
        line, good = await _move(cluster, options, namespace, name)
        print(line, flush=True) if good else options.complain(line)
        status = status if good else 1
    return status


async def _move(cluster: Cluster, options: argparse.Namespace, namespace: str, name: str) -> tuple[str, bool]:
    """Return what became of a pod, and whether that is what was wanted. Raises ApiError, CommandError."""
    client = cluster.client
    pod = read_pod(await client.get(cluster.prefix + path_of("v1", "pods", namespace, name)))
    wanted = chosen(pod, options.container)
    makes_one = options.to or not set(wanted) <= set(pod.leaving)
    successor = await to_node.prepare(cluster, pod, wanted, options.to) if makes_one else None
    body = body_of(pod, wanted, "", 0, parks=pod.owner is None or pod.owner.kind in LATER, by_name=True)
    try:
        migration = await _create(cluster, body)
        try:
            await _until_heard(cluster, migration, pod)
            if successor:
                await to_node.place(cluster, successor, options.to, HEARD)
                await _until_claimed(cluster, migration, successor)
            await _evict(cluster, pod)
        except BaseException:  # interrupted, too: nothing is to leave at a later stop
            with trio.CancelScope(shield=True), trio.move_on_after(HEARD), suppress(ApiError):
                await client.delete(cluster.prefix + _path(migration), migration.uid)
            raise
    except BaseException:  # interrupted, too: no pod stays that nothing takes over
        if successor:
            with trio.CancelScope(shield=True), trio.move_on_after(HEARD), suppress(ApiError):
                await to_node.remove(cluster, successor)
        raise
    print(f"pod/{name} evicted", flush=True)
    if successor:
        await to_node.hand_over(cluster, successor, pod)
    if options.no_wait:
        return f"migration/{name} requested", True
    outcome = await _outcome(cluster, migration, options.timeout)
    if successor:
        await to_node.settle(cluster, successor)
    return outcome


def chosen(pod: Pod, container: str) -> list[str]:
    """Return the containers that are to move. Raises CommandError."""
    if pod.deadline is not None:
        raise CommandError(f'pods "{pod.name}" is being deleted already')
    if not pod.node:
        raise CommandError(f'pods "{pod.name}" runs on no node yet')
    if container and container not in pod.containers:
        raise CommandError(f"container {container} is not valid for pod {pod.name}")
    return [container] if container else list(pod.containers)


async def _create(cluster: Cluster, body: Object) -> Migration:
    """Create a Migration, instead of one that has ended. Raises ApiError, CommandError."""
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    path = cluster.prefix + path_of(GROUP_VERSION, PLURAL, namespace)
    try:
        return keep(await cluster.client.create(path, body))
    except ApiError as error:
        if error.status != 409:
            raise
    known = keep(await cluster.client.get(f"{path}/{name}"))
    if not known.is_done:
        raise CommandError(f"migrations/{name} is under way: {known.status.get('phase', 'Pending')}")
    await cluster.client.delete(f"{path}/{name}", known.uid)
    return keep(await cluster.client.create(path, body))


async def _until_heard(cluster: Cluster, migration: Migration, pod: Pod) -> None:
    """Wait until the pod's node knows what is wanted. Raises ApiError, CommandError."""
    found = await _until(cluster, migration, lambda now: now if now.status else None, HEARD)
    if found is None:
        raise CommandError(
            f"timed out waiting for the condition on migrations/{pod.name}: the manager of {pod.node} has not answered "
            f"within {HEARD:g} s. It needs the flag --migration, of the component migration"
        )
    if found.is_final:
        raise CommandError(str(found.status.get("reason") or "it cannot move"))


async def _until_claimed(cluster: Cluster, migration: Migration, successor: Object) -> None:
    """Wait until the pod that was made for it takes over, and so no other. Raises ApiError, CommandError."""
    uid = successor["metadata"]["uid"]
    if await _until(cluster, migration, lambda now: True if now.target_uid == uid else None, HEARD) is None:
        name = successor["metadata"]["name"]
        raise CommandError(f"the manager of the node of {name} has not claimed it within {HEARD:g} s")


async def _evict(cluster: Cluster, pod: Pod) -> None:
    """Ask the pod to go, unless a budget keeps it. Raises ApiError."""
    metadata = {"name": pod.name, "namespace": pod.namespace}
    options = {"preconditions": {"uid": pod.uid}}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, "deleteOptions": options}
    await cluster.client.create(cluster.prefix + path_of("v1", "pods", pod.namespace, pod.name, "eviction"), body)


async def _outcome(cluster: Cluster, migration: Migration, timeout: float) -> tuple[str, bool]:
    """Return what became of it, told as it goes on. Raises ApiError, CommandError."""
    told: list[str] = []

    def look(now: Migration) -> Migration | None:
        if now.is_claimed and not told:
            told.append(f"{now.name} moves to {now.spec.get('targetPod')} on {now.target_node}")
            print(told[0], flush=True)
        return now if now.is_final else None

    found = await _until(cluster, migration, look, timeout)
    if found is None:
        raise CommandError(
            f"timed out waiting for the condition on migrations/{migration.name}: not over within {timeout:g} s"
        )
    return words_of(found)


def words_of(migration: Migration) -> tuple[str, bool]:
    """Return the end of a Migration in words, and whether it is a good one."""
    took = migration.status.get("duration")
    if all(migration.phase(name) == COMPLETED for name in migration.names):
        within = f", {took} without an answer" if took else ""
        return f"{migration.name} goes on as {migration.spec.get('targetPod')} on {migration.target_node}{within}", True
    whys = [
        f"{name}: {migration.phase(name)}: {migration.reason(name) or 'without a reason'}"
        for name in migration.names
        if migration.phase(name) in FINAL and migration.phase(name) != COMPLETED
    ]
    return f"{migration.name} has not moved: {'; '.join(whys)}", False


async def _until(
    cluster: Cluster, migration: Migration, look: Callable[[Migration], _T | None], seconds: float
) -> _T | None:
    """Return what `look` finds in a Migration, None if it finds nothing in time. Raises ApiError, CommandError."""
    if (found := look(migration)) is not None:
        return found
    path = cluster.prefix + path_of(GROUP_VERSION, PLURAL, migration.namespace)
    with trio.move_on_after(seconds):
        changes = cluster.changes(migration.namespace, migration.name, migration.version, path)
        async with aclosing(changes) as events:
            async for kind, body in events:
                if kind == "DELETED":
                    raise CommandError(f'migrations "{migration.name}" was deleted, as its pods were, before its end')
                if (found := look(keep(body))) is not None:
                    return found
    return None


def _path(migration: Migration) -> str:
    return path_of(GROUP_VERSION, PLURAL, *migration.key)
