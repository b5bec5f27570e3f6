"""Whether a pod is replaced: a scale-down, a rollout and a deletion of its owner want nothing, and are told so."""

from typing import Any

import pytest
from tests.unit.manager.migration.build import BEGUN, newcomer, pod

from zeropod.manager.kube.client import Object
from zeropod.manager.migration import owners
from zeropod.manager.migration.owners import AT_ONCE, LATER, replacement
from zeropod.manager.migration.pods import Pod

LEAVING = pod("web-1", deleted=BEGUN)


def replica_set(replicas: int, **metadata: Any) -> Object:
    return {"metadata": {"uid": "uid-ReplicaSet", **metadata}, "spec": {"replicas": replicas}}


STAYS = [pod("web-a"), pod("web-b")]


@pytest.mark.parametrize(
    ("replicas", "others", "claimed", "comes"),
    [
        (3, STAYS, [], True),
        (2, STAYS, [], False),
        (0, [], [], False),
        (1, [], [], True),
        # Its replacement is there already: it, or that of another, leaves room.
        (3, [*STAYS, newcomer("web-c")], [], True),
        (2, [*STAYS, newcomer("web-c")], [], False),
        # That one takes over from another already.
        (3, [*STAYS, newcomer("web-c")], ["uid-web-c"], False),
        # One that cannot be scheduled since long ago is not its replacement, but counts as one that there is.
        (3, [*STAYS, newcomer("web-c", created=BEGUN - 600)], [], False),
        # Those that leave with it, have ended, or are another's, do not count.
        (3, [*STAYS, pod("web-c", deleted=BEGUN), pod("web-d", phase="Failed")], [], True),
        (3, [*STAYS, pod("web-c", owner_uid="another")], [], True),
    ],
)
def test_a_replica_set(replicas: int, others: list[Pod], claimed: list[str], comes: bool) -> None:
    found = replacement(LEAVING, replica_set(replicas), [LEAVING, *others], claimed)
    assert (found.comes, found.parks, bool(found.why)) == (comes, False, not comes)


@pytest.mark.parametrize(
    "owner", [None, replica_set(3, deletionTimestamp="2026-01-01T00:00:00Z"), replica_set(3, uid="a new one")]
)
def test_an_owner_that_goes_away_wants_nothing(owner: Object | None) -> None:
    assert not replacement(LEAVING, owner, [], ()).comes


def stateful_set(replicas: int = 3, **more: Any) -> Object:
    status = {"updateRevision": "r1", "currentRevision": "r1", **more.pop("status", {})}
    return {"metadata": {"uid": "uid-StatefulSet"}, "spec": {"replicas": replicas, **more}, "status": status}


PARTITION = {"updateStrategy": {"rollingUpdate": {"partition": 2}}}
NEW = {"status": {"updateRevision": "r2"}}


@pytest.mark.parametrize(
    ("name", "owner", "comes"),
    [
        ("web-2", stateful_set(3), True),
        ("web-2", stateful_set(2), False),
        ("web-0", stateful_set(0), False),
        ("web-4", stateful_set(3, ordinals={"start": 2}), True),
        ("web-1", stateful_set(3, ordinals={"start": 2}), False),
        ("web-2", stateful_set(3, **NEW), False),
        ("web-1", stateful_set(3, **NEW, **PARTITION), True),
        ("web-2", stateful_set(3, **NEW, **PARTITION), False),
    ],
)
def test_a_stateful_set(name: str, owner: Object, comes: bool) -> None:
    found = replacement(pod(name, owner="StatefulSet", deleted=BEGUN), owner, [], ())
    assert (found.comes, found.parks) == (comes, comes)
    assert bool(found.why) is not comes


DONE = {"conditions": [{"type": "Complete", "status": "True"}]}


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ({}, {}, AT_ONCE),
        ({"podReplacementPolicy": "Failed"}, {}, LATER),
        ({"suspend": True}, {}, None),
        ({}, DONE, None),
    ],
)
def test_a_job(spec: Object, status: Object, expected: owners.Replacement | None) -> None:
    owner = {"metadata": {"uid": "uid-Job"}, "spec": spec, "status": status}
    found = replacement(pod(owner="Job", revision="", deleted=BEGUN), owner, [], ())
    assert found == expected if expected else not found.comes


def test_the_others() -> None:
    assert replacement(pod(owner="DaemonSet"), {"metadata": {"uid": "uid-DaemonSet"}}, [], ()) == LATER
    assert replacement(pod(owner="", revision=""), None, [], ()) == LATER
    assert not replacement(pod(owner="Custom", revision=""), {"metadata": {"uid": "uid-Custom"}}, [], ()).comes


@pytest.mark.parametrize(
    ("of", "by_name", "refused"),
    [
        ({}, False, False),
        ({"revision": ""}, False, True),
        ({"owner": "", "revision": ""}, False, True),
        ({"owner": "", "revision": ""}, True, False),
        ({"owner": "Job", "revision": ""}, False, True),
        ({"owner": "Job", "revision": ""}, True, False),
    ],
)
def test_what_moves_only_by_name(of: dict[str, Any], by_name: bool, refused: bool) -> None:
    assert bool(owners.refusal(pod(**of), by_name=by_name)) is refused
