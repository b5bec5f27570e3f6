"""A pod that is to take over from one that a person moves: made before that goes, and adopted by its ReplicaSet.

A ReplicaSet chooses no nodes, and its template may not let its pods move. So a pod is made from that which may, for one
node if a person wants that, but without the label by which the ReplicaSet knows its own. When the old pod is evicted it
gets that label: the ReplicaSet adopts it instead of making another one, and if that was made meanwhile removes that,
since this one costs more to delete.
"""

import copy
from collections.abc import Sequence
from typing import Any

import trio

from zeropod.cli.kubectl.cluster import Cluster, CommandError, Object
from zeropod.manager.kube.client import path_of
from zeropod.manager.kube.names import PREFIX
from zeropod.manager.migration.names import LIVE, OFFLINE, REPLACES
from zeropod.manager.migration.pods import Pod

COST = "controller.kubernetes.io/pod-deletion-cost"
HIGHEST = "2147483647"
HASH = "pod-template-hash"
GATE = f"{PREFIX}/migration"
"""What keeps it from being scheduled before its Migration is known."""
POLL = 0.5


async def prepare(cluster: Cluster, pod: Pod, wanted: Sequence[str], node: str) -> Object:
    """Return the pod that is to take over, which is not scheduled yet. Raises ApiError, CommandError."""
    if why := obstacle(pod, node):
        raise CommandError(f"{pod.name} cannot be moved {'to a node of your choice' if node else 'by its name'}: {why}")
    assert pod.owner is not None
    if node:
        await cluster.client.get(cluster.prefix + path_of("v1", "nodes", name=node))
    owner = await cluster.client.get(
        cluster.prefix + path_of(pod.owner.version, "replicasets", pod.namespace, pod.owner.name)
    )
    made = successor(owner, pod, wanted, node)
    return await cluster.client.create(cluster.prefix + path_of("v1", "pods", pod.namespace), made)


def obstacle(pod: Pod, node: str) -> str:
    """Return why no pod can be made to take over from one; empty if one can."""
    kind = pod.owner.kind if pod.owner else ""
    if not node and kind != "ReplicaSet":
        return f"the pod that replaces it would begin anew, without an annotation {LIVE}"
    if kind == "ReplicaSet":
        return "" if pod.revision else "its ReplicaSet does not tell revisions apart, as one of a Deployment does"
    if kind == "StatefulSet":
        return (
            "the StatefulSet makes the next pod of its name only when this one is gone, where the scheduler puts it; "
            "cordon the nodes that it is not to run on, and move it without --to"
        )
    return f"only a ReplicaSet takes over a pod that was made for it, and this is {f'a {kind}' if kind else 'none'}'s"


def successor(owner: Object, pod: Pod, wanted: Sequence[str], node: str) -> Object:
    """Return the pod that is to take over: of the ReplicaSet's template, and not the ReplicaSet's yet."""
    template = copy.deepcopy(owner["spec"]["template"])
    metadata, spec = template.get("metadata") or {}, template["spec"]
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH}
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner["metadata"]["name"]}
    if node:
        spec["affinity"] = _only(spec.get("affinity") or {}, node)
    moving = {OFFLINE: ",".join(wanted), LIVE: ",".join(wanted), REPLACES: pod.uid, COST: HIGHEST}
    spec["schedulingGates"] = [*(spec.get("schedulingGates") or ()), {"name": GATE}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{owner['metadata']['name']}-",
            "namespace": pod.namespace,
            "labels": labels,
            "annotations": {**(metadata.get("annotations") or {}), **moving},
            # It ends with the ReplicaSet, whether that has adopted it or not.
            "ownerReferences": [{**reference, "uid": owner["metadata"]["uid"]}],
        },
        "spec": spec,
    }


def _only(affinity: Object, node: str) -> Object:
    """Return an affinity that allows of its nodes one."""
    this = {"key": "metadata.name", "operator": "In", "values": [node]}
    nodes = dict(affinity.get("nodeAffinity") or {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms: list[Any] = (nodes.get(required) or {}).get("nodeSelectorTerms") or [{}]
    fields = [{**each, "matchFields": [*(each.get("matchFields") or ()), this]} for each in terms]
    return {**affinity, "nodeAffinity": {**nodes, required: {"nodeSelectorTerms": fields}}}


async def place(cluster: Cluster, pod: Object, node: str, seconds: float) -> None:
    """Let the pod be scheduled, and wait for that. Raises ApiError, CommandError."""
    path = _path(cluster, pod)
    gates = [each for each in pod["spec"].get("schedulingGates") or () if each["name"] != GATE]
    now = await cluster.client.merge_patch(path, {"spec": {"schedulingGates": gates or None}})
    with trio.move_on_after(seconds):
        while not now["spec"].get("nodeName"):
            await trio.sleep(POLL)
            now = await cluster.client.get(path)
    if not (found := now["spec"].get("nodeName")) or (node and found != node):
        conditions = (now.get("status") or {}).get("conditions") or ()
        why = next((each.get("message", "") for each in conditions if each.get("type") == "PodScheduled"), "")
        raise CommandError(
            f"no pod can be scheduled{f' to {node}' if node else ''}: {why or 'the scheduler does not say why'}"
        )


async def hand_over(cluster: Cluster, pod: Object, old: Pod) -> None:
    """Have the ReplicaSet adopt the pod. Raises ApiError."""
    await cluster.client.merge_patch(_path(cluster, pod), {"metadata": {"labels": {HASH: old.revision}}})


async def settle(cluster: Cluster, pod: Object) -> None:
    """Have the pod cost no more than others to delete. Raises ApiError."""
    await cluster.client.merge_patch(_path(cluster, pod), {"metadata": {"annotations": {COST: None}}})


async def remove(cluster: Cluster, pod: Object) -> None:
    """Take the pod away, which is not needed. Raises ApiError."""
    await cluster.client.delete(_path(cluster, pod), pod["metadata"]["uid"])


def _path(cluster: Cluster, pod: Object) -> str:
    return cluster.prefix + path_of("v1", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
