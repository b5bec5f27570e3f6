"""Which pod takes over from which. Pure.

By the uid of their owner, by the revision of its template, and, where its pods are not alike, by what sets them apart.
Two pods never match because neither has one of these. A pod without an owner takes over only from one of its own name,
where a person has asked for that, or from the one that it was made for.
"""

from collections.abc import Iterable

from zeropod.manager.migration.owners import refusal
from zeropod.manager.migration.pods import Pod
from zeropod.manager.migration.resource import Migration


def fits(migration: Migration, pod: Pod) -> bool:
    """Whether a pod is what replaces the one that leaves, whoever has claimed that."""
    spec = migration.spec
    if pod.namespace != migration.namespace or pod.uid == migration.source_uid or not pod.uid:
        return False
    if migration.is_claimed:
        return pod.uid == migration.target_uid and (migration.by_name or _is_alike(migration, pod))
    if pod.replaces:
        return migration.by_name and pod.replaces == migration.source_uid
    if migration.by_name and pod.created < int(migration.created) - 1:
        return False  # it was wanted before anything was to leave
    if pod.owner is None and not (spec.get("ownerUID") or spec.get("revision")):
        return migration.by_name and pod.name == spec.get("sourcePod")
    return _is_alike(migration, pod) and not refusal(pod, by_name=migration.by_name)


def _is_alike(migration: Migration, pod: Pod) -> bool:
    spec = migration.spec
    return (
        pod.owner is not None
        and bool(pod.owner.uid)
        and pod.owner.uid == spec.get("ownerUID")
        and pod.revision == (spec.get("revision") or "")
        and pod.ordinal == (spec.get("ordinal") or "")
    )


def choose(pod: Pod, migrations: Iterable[Migration]) -> Migration | None:
    """Return what a pod is to claim: of several the one that waits longest, so that all choose the same."""
    if not pod.may_claim or not pod.node:
        return None
    found = [each for each in migrations if each.is_open and fits(each, pod)]
    return min(found, key=lambda each: (each.created, each.name), default=None)


def claimed_by(pod: Pod, migrations: Iterable[Migration]) -> Migration | None:
    """Return what a pod has claimed."""
    return next((each for each in migrations if each.namespace == pod.namespace and each.target_uid == pod.uid), None)
