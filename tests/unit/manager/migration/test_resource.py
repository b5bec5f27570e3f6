"""What a Migration says after each change, and what it does not say any more."""

from dataclasses import replace
from typing import Any

from tests.unit.manager.migration.build import BEGUN, migration, newcomer, pod

from zeropod.manager.migration.resource import Migration, body_of, claim, container_change, status_change

BOTH = pod(containers=("a", "b"))


def changed(before: Migration, names: list[str], *args: Any, **more: Any) -> Migration:
    body = status_change(before, names, BEGUN, *args, **more)
    assert body is not None
    assert body["metadata"] == {"resourceVersion": before.version}
    return replace(before, status={key: value for key, value in body["status"].items() if value is not None})


def test_one_that_ends_with_its_pod_and_one_that_outlives_it() -> None:
    now = body_of(pod(), ["main"], "10.0.0.1", 8090)
    assert [each["kind"] for each in now["metadata"]["ownerReferences"]] == ["Pod"]
    assert now["spec"]["containers"] == [
        {"name": "main", "id": "id-main", "imageServer": {"host": "10.0.0.1", "port": 8090}}
    ]
    later = body_of(pod("web-0", owner="StatefulSet"), ["main"], "10.0.0.1", 8090, parks=True)
    assert [each["kind"] for each in later["metadata"]["ownerReferences"]] == ["StatefulSet"]
    assert (later["spec"]["ordinal"], later["spec"]["podTemplateHash"], later["spec"]["revision"]) == (
        "web-0",
        "",
        "r1",
    )
    bare = body_of(pod("web", owner="", revision=""), ["main"], "", 0, parks=True, by_name=True)
    assert "ownerReferences" not in bare["metadata"]
    assert "finalizers" not in now["metadata"]


def test_a_claim_is_of_what_was_read_and_keeps_the_owners() -> None:
    change = claim(migration(pod()), newcomer())
    assert change["metadata"]["resourceVersion"] == "7"
    assert [each["uid"] for each in change["metadata"]["ownerReferences"]] == ["uid-web-1", "uid-web-2"]
    assert change["spec"] == {"targetPod": "web-2", "targetPodUID": "uid-web-2", "targetNode": "node-2"}


def test_all_are_ready_when_each_is() -> None:
    one = container_change(migration(BOTH), "a", {"targetPodIP": "10.0.0.9"}, restoreReady=True)["spec"]
    assert (one["restoreReady"], one["targetPodIP"]) == (False, "10.0.0.9")
    both = container_change(replace(migration(BOTH), spec=one), "b", restoreReady=True)["spec"]
    assert both["restoreReady"] is True
    assert [each["name"] for each in both["containers"]] == ["a", "b"]


def test_each_container_has_its_own_phase_and_reason() -> None:
    now = changed(migration(BOTH), ["a"], "Failed", "it is awake")
    assert (now.phase("a"), now.phase("b"), now.status["phase"]) == ("Failed", "Pending", "Pending")
    assert now.status["reason"] == "a: it is awake"
    now = changed(now, ["b"], "Running")
    assert (now.status["phase"], now.is_final) == ("Running", False)
    now = changed(now, ["b"], "Completed")
    assert (now.status["phase"], now.is_final) == ("Failed", True)


def test_an_end_stays_unless_the_target_knows_better() -> None:
    failed = changed(migration(pod()), ["main"], "Failed", "too late")
    for phase in ("Pending", "Running", "Unclaimed"):
        assert status_change(failed, ["main"], BEGUN, phase) is None
    assert status_change(failed, ["main"], BEGUN, "Running", knows=True) is None
    assert status_change(failed, ["main"], BEGUN, "Completed") is None
    runs = changed(failed, ["main"], "Completed", knows=True)
    assert (runs.phase("main"), runs.reason("main"), "reason" in runs.status) == ("Completed", "", False)
    lost = changed(runs, ["main"], "Failed", "its memory is lost", knows=True)
    assert (lost.phase("main"), lost.reason("main")) == ("Failed", "its memory is lost")


def test_the_duration_is_from_the_freeze_until_it_runs() -> None:
    now = changed(migration(pod()), ["main"], "Running", fields={"pausedAt": "2026-01-01T00:00:00.000Z"})
    now = changed(now, ["main"], "Completed", fields={"restoredAt": "2026-01-01T00:00:00.232Z", "pagesToCome": 9})
    assert now.said("main")["migrationDuration"] == "232ms"
    assert now.status["duration"] == "232ms"
    assert (now.is_final, now.is_done) == (True, False)
    assert changed(now, ["main"], fields={"pagesToCome": 0}).is_done


def test_what_says_the_same_is_not_written() -> None:
    now = changed(migration(pod()), ["main"], "Failed", "no")
    assert status_change(now, ["main"], BEGUN + 5, "Failed", "no") is None
    assert status_change(now, ["unknown"], BEGUN, "Failed", "no") is None
