"""Whether a pod that goes away is replaced, and when: at once, after it is gone, or never. Pure.

A scale-down, a rollout and a deletion of the owner want no replacement: nothing is prepared for one, and nothing waits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from zeropod.manager.kube.client import Object
from zeropod.manager.migration.pods import Pod

READ = ("ReplicaSet", "StatefulSet", "DaemonSet", "Job")
"""Owners that are asked what they want."""
PLURALS = {
    "ReplicaSet": "replicasets",
    "StatefulSet": "statefulsets",
    "DaemonSet": "daemonsets",
    "Job": "jobs",
}


@dataclass(frozen=True, slots=True)
class Replacement:
    """What comes in a pod's place."""

    comes: bool
    parks: bool = False
    """Whether it comes only when the pod is gone."""
    why: str = ""
    """Why nothing comes."""


AT_ONCE, LATER = Replacement(True), Replacement(True, parks=True)


def none(why: str) -> Replacement:
    """Return that nothing comes, and why."""
    return Replacement(False, why=why)


def refusal(pod: Pod, *, by_name: bool) -> str:
    """Return why a pod of this kind cannot move; empty if it can."""
    if by_name:
        return ""
    if pod.owner is None:
        return "it has no owner that would replace it; kubectl zeropod migrate moves it by its name"
    if pod.owner.kind == "Job":
        return "pods of Jobs move only where kubectl zeropod migrate asks for it by name"
    if not pod.revision:
        return f"its {pod.owner.kind} does not tell revisions apart, as one of a Deployment does"
    return ""


def replacement(pod: Pod, owner: Object | None, pods: Iterable[Pod], claimed: Iterable[str]) -> Replacement:
    """Return what takes a pod's place.

    `owner` is its controller as the API has it, None if it is gone; `pods` are those that have the same owner, and
    `claimed` the uids of those that take over from another pod already.
    """
    if pod.owner is None:
        return LATER  # by name alone: a person makes one of its name
    if owner is None or owner["metadata"].get("uid") != pod.owner.uid:
        return none(f"its {pod.owner.kind} is gone")
    if "deletionTimestamp" in owner["metadata"]:
        return none(f"its {pod.owner.kind} is being deleted")
    match pod.owner.kind:
        case "ReplicaSet":
            return _of_replica_set(pod, owner, pods, frozenset(claimed))
        case "StatefulSet":
            return _of_stateful_set(pod, owner)
        case "Job":
            return _of_job(owner)
        case "DaemonSet":
            return LATER
    return none(f"it is not known how a {pod.owner.kind} replaces pods")


def _of_replica_set(pod: Pod, owner: Object, pods: Iterable[Pod], claimed: frozenset[str]) -> Replacement:
    wanted = int((owner.get("spec") or {}).get("replicas", 1))
    # One that has come in its place already, or in that of another that is leaving, leaves room for it all the same.
    settled = [
        each
        for each in pods
        if each.is_active and each.uid != pod.uid and each.owner == pod.owner and not _is_new(each, pod, claimed)
    ]
    if len(settled) < wanted:
        return AT_ONCE
    return none(f"its ReplicaSet wants {wanted}, and has {len(settled)} without it")


def _is_new(other: Pod, pod: Pod, claimed: frozenset[str]) -> bool:
    # The API writes times in whole seconds.
    return other.may_claim and other.uid not in claimed and other.created >= int(pod.deleted_at) - 1


def _of_stateful_set(pod: Pod, owner: Object) -> Replacement:
    spec, status = owner.get("spec") or {}, owner.get("status") or {}
    start = int((spec.get("ordinals") or {}).get("start") or 0)
    end = start + int(spec.get("replicas", 1))
    _, _, number = pod.name.rpartition("-")
    ordinal = int(number) if number.isascii() and number.isdigit() else -1
    if not start <= ordinal < end:
        return none(f"its StatefulSet wants pods {start} to {end - 1}")
    rolling = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    updated, current = status.get("updateRevision", ""), status.get("currentRevision", "")
    comes = updated if ordinal >= int(rolling.get("partition") or 0) else current
    if comes and pod.revision != comes:
        return none("its StatefulSet is being changed: the pod that comes in its place is of another revision")
    return LATER


def _of_job(owner: Object) -> Replacement:
    finished = [
        each
        for each in (owner.get("status") or {}).get("conditions") or ()
        if each.get("type") in ("Complete", "Failed") and each.get("status") == "True"
    ]
    if finished or (owner.get("spec") or {}).get("suspend"):
        return none("its Job has ended, or is suspended")
    policy = (owner.get("spec") or {}).get("podReplacementPolicy")
    return LATER if policy == "Failed" else AT_ONCE
