"""Which pod takes over from which, as a table: what is no replacement never gets another one's memory."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.manager.migration.build import BEGUN, migration, newcomer, pod

from zeropod.manager.migration.matching import choose, claimed_by, fits
from zeropod.manager.migration.pods import Pod
from zeropod.manager.migration.resource import Migration

NO_OWNER = {"owner": "", "revision": ""}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, True),
        ({}, {"revision": "r2"}, False),
        ({}, {"owner_uid": "another"}, False),
        ({}, {"owner": "StatefulSet"}, False),
        # Without a hash there is nothing to tell two templates apart, though both have none.
        ({"revision": ""}, {"revision": ""}, False),
        ({"revision": ""}, {}, False),
        (NO_OWNER, NO_OWNER, False),
        ({}, NO_OWNER, False),
        (NO_OWNER, {}, False),
        ({"owner": "DaemonSet"}, {"owner": "DaemonSet"}, True),
        ({"owner": "Job", "revision": ""}, {"owner": "Job", "revision": ""}, False),
        ({"owner": "Custom", "revision": ""}, {"owner": "Custom", "revision": ""}, False),
    ],
)
def test_owner_and_revision(before: dict[str, Any], after: dict[str, Any], expected: bool) -> None:
    assert fits(migration(pod(**before)), newcomer(**after)) is expected


@pytest.mark.parametrize(
    ("name", "revision", "expected"), [("web-0", "r1", True), ("web-1", "r1", False), ("web-0", "r2", False)]
)
def test_a_stateful_set_s_pod_is_followed_by_that_of_its_ordinal(name: str, revision: str, expected: bool) -> None:
    left = migration(pod("web-0", uid="old", owner="StatefulSet"), parks=True)
    assert fits(left, newcomer(name, owner="StatefulSet", revision=revision)) is expected


@pytest.mark.parametrize(
    ("by_name", "name", "expected"), [(True, "web", True), (True, "other", False), (False, "web", False)]
)
def test_a_bare_pod_is_followed_by_one_of_its_name_where_that_was_asked_for(
    by_name: bool, name: str, expected: bool
) -> None:
    left = migration(pod("web", uid="old", **NO_OWNER), parks=True, by_name=by_name)
    assert fits(left, newcomer(name, **NO_OWNER)) is expected


@pytest.mark.parametrize(
    ("by_name", "index", "expected"), [(True, "3", True), (True, "4", False), (True, "", False), (False, "3", False)]
)
def test_a_job_s_pod_by_name_and_index(by_name: bool, index: str, expected: bool) -> None:
    job = {"owner": "Job", "revision": ""}
    left = migration(pod(index="3", **job), by_name=by_name)
    assert fits(left, newcomer(index=index, **job)) is expected


def test_what_a_person_asked_for_is_not_for_a_pod_that_was_wanted_before() -> None:
    left = migration(pod(), by_name=True)
    assert not fits(left, newcomer(created=BEGUN - 5))
    assert fits(left, newcomer(created=BEGUN + 5))


@pytest.mark.parametrize(
    ("by_name", "replaces", "expected"),
    [(True, "uid-web-1", True), (True, "another", False), (False, "uid-web-1", False)],
)
def test_a_pod_that_was_made_for_one_takes_over_from_that(by_name: bool, replaces: str, expected: bool) -> None:
    left = migration(pod(), by_name=by_name)
    assert fits(left, newcomer(replaces=replaces, **NO_OWNER)) is expected
    # Nor does one that the ReplicaSet has adopted since.
    assert fits(left, newcomer(replaces=replaces)) is expected


def test_never_the_pod_itself_and_never_in_another_namespace() -> None:
    left = migration(pod("web-0", uid="old", owner="StatefulSet"), parks=True)
    assert not fits(left, newcomer("web-0", uid="old", owner="StatefulSet"))
    assert not fits(left, replace(newcomer("web-0", owner="StatefulSet"), namespace="other"))


def claimed(by: Pod, **more: Any) -> Migration:
    return migration(pod(), targetPod=by.name, targetPodUID=by.uid, targetNode=by.node, **more)


def test_what_is_claimed_fits_its_claimer_alone_if_that_replaces_it() -> None:
    first, second, wrong = newcomer("web-2"), newcomer("web-3"), newcomer("web-4", revision="r2")
    assert fits(claimed(first), first)
    assert not fits(claimed(first), second)
    assert not fits(claimed(wrong), wrong)
    # A person's choice is a person's.
    assert fits(claimed(wrong, by_name=True), wrong)


@pytest.mark.parametrize("state", [{"phase": "Running"}, {"deleted": BEGUN}, {"node": ""}, {"phase": "Failed"}])
def test_only_a_pod_that_begins_here_claims(state: dict[str, Any]) -> None:
    assert choose(newcomer(), [migration(pod())])
    assert choose(newcomer(**state), [migration(pod())]) is None


@pytest.mark.parametrize("phase", ["Completed", "Failed", "Unclaimed"])
def test_what_has_ended_is_not_claimed(phase: str) -> None:
    left = migration(pod(containers=("a", "b")))
    ended = {"containers": [{"name": name, "condition": {"phase": phase}} for name in ("a", "b")]}
    assert choose(newcomer(), [replace(left, status=ended)]) is None
    # One of two goes on.
    assert choose(newcomer(), [replace(left, status={"containers": ended["containers"][:1]})])


def test_all_choose_what_waits_longest() -> None:
    late, early = migration(pod("web-a")), replace(migration(pod("web-b")), created=BEGUN - 9)
    assert choose(newcomer(), [late, early]) is early
    taken = claimed(newcomer("web-3"))
    assert choose(newcomer(), [taken]) is None
    assert claimed_by(newcomer("web-3"), [late, taken]) is taken
    assert claimed_by(newcomer("web-2"), [late, taken]) is None
