"""What there should be in the API, as a function of a pod and of what shims say."""

import json
from typing import Any

import pytest
from tests.unit.manager.kube.build import LOWEST, NOW, REQUESTS, asleep, container, pod, pod_body, saying, status

from zeropod.manager.kube import events, labels, resize
from zeropod.manager.kube.events import Reporter
from zeropod.manager.kube.pods import PendingResize, read_pod
from zeropod.manager.kube.quantities import amount, same
from zeropod.manager.kube.work import Changes, Options, wanted
from zeropod.manager.units import duration
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

LABEL = "status.zeropod.ctrox.dev/main"
KEPT = {"cpu": {"main": "100m"}, "memory": {"main": "64Mi"}}


@pytest.mark.parametrize(
    ("one", "other"), [("100m", "0.1"), ("1Ki", "1024"), ("1k", "1000"), ("1e3", "1k"), ("1", "1000m"), ("5", "5")]
)
def test_quantities_are_compared_by_what_they_mean(one: str, other: str) -> None:
    assert same(one, other)
    assert not same(one, "7")


def test_a_quantity_is_in_billionths_and_rounded_up() -> None:
    assert [amount(text) for text in ("1", "1n", "0.1n", ".5", "1.5e3", "25e-3", "-1.5", "1Ei")] == [
        10**9, 1, 1, 5 * 10**8, 1500 * 10**9, 25 * 10**6, -15 * 10**8, 2**60 * 10**9,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", ".", "-", "m", "much", "1Kb", "1e", "--1", "1 Ki", "1e999"])
def test_what_is_not_a_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        amount(text)


@pytest.mark.parametrize(
    ("state", "had", "has"),
    [
        (status_pb2.RUNNING, None, "RUNNING"),
        (status_pb2.STANDBY, "RUNNING", "SCALED_DOWN"),
        (status_pb2.COLD, "RUNNING", "SCALED_DOWN"),
        (status_pb2.DOZING, "SCALED_DOWN", "SCALED_DOWN"),
        (status_pb2.CHECKPOINTING, "RUNNING", "RUNNING"),
        (status_pb2.RESTORING, "SCALED_DOWN", "SCALED_DOWN"),
        (status_pb2.PAUSED, "RUNNING", "RUNNING"),
        (status_pb2.CREATED, None, None),
        (status_pb2.STOPPED, "RUNNING", None),
    ],
)
def test_a_label_follows_the_state(state: State, had: str | None, has: str | None) -> None:
    made = pod(labels={"main": had} if had else {})
    assert labels.wanted(made, saying(status(state))) == ({LABEL: has} if had != has else {})


def test_a_label_of_a_container_that_does_not_run_is_removed() -> None:
    assert labels.wanted(pod(labels={"main": "RUNNING"}, running=False), {}) == {LABEL: None}


def test_a_label_stays_while_nothing_is_heard_of_its_shim() -> None:
    assert labels.wanted(pod(labels={"main": "RUNNING"}), {}) == {}


def test_what_it_requests_awake_is_written_down_before_it_sleeps() -> None:
    made = resize.wanted(pod(), saying(status()), NOW)
    assert {key: json.loads(value) for key, value in made.annotations.items()} == {
        "zeropod.ctrox.dev/cpu-requests": {"main": "100m"},
        "zeropod.ctrox.dev/memory-requests": {"main": "64Mi"},
    }
    assert made.requests == {}


@pytest.mark.parametrize("requests", [REQUESTS, {"cpu": "100m"}, {"memory": "64Mi"}, {}])
def test_requests_fall_asleep_and_wake(requests: dict[str, str]) -> None:
    kept = {key: {"main": requests.get(key, "0")} for key in ("cpu", "memory")} if requests else {}
    lowest = {key: LOWEST[key] for key in requests}
    awake, lowered = container(requests=requests), container(requests=lowest)
    down = resize.wanted(pod(awake, originals=kept), saying(asleep()), NOW)
    assert (down.annotations, down.requests) == ({}, {"main": lowest} if requests else {})
    assert resize.wanted(pod(lowered, originals=kept), saying(asleep()), NOW) == resize.Resize()
    up = resize.wanted(pod(lowered, originals=kept), saying(status()), NOW)
    assert (up.annotations, up.requests) == ({}, {"main": requests} if requests else {})
    assert resize.wanted(pod(awake, originals=kept), saying(status()), NOW) == resize.Resize()


@pytest.mark.parametrize(
    "state", [status_pb2.CHECKPOINTING, status_pb2.RESTORING, status_pb2.PAUSED, status_pb2.CREATED]
)
def test_requests_stay_on_the_way(state: State) -> None:
    for requests in (REQUESTS, LOWEST):
        made = pod(container(requests=requests), originals=KEPT)
        assert resize.wanted(made, saying(status(state)), NOW) == resize.Resize()


@pytest.mark.parametrize("state", [status_pb2.RUNNING, status_pb2.STANDBY])
def test_a_request_that_a_person_changes_is_the_new_original(state: State) -> None:
    made = pod(container(requests={"cpu": "200m", "memory": "64Mi"}), originals=KEPT)
    changes = resize.wanted(made, saying(status(state)), NOW)
    assert changes.annotations == {"zeropod.ctrox.dev/cpu-requests": '{"main":"200m"}'}
    assert changes.requests == ({} if state == status_pb2.RUNNING else {"main": LOWEST})


def test_a_request_that_is_written_in_another_way_is_the_same() -> None:
    made = pod(container(requests={"cpu": "0.1", "memory": "65536Ki"}), originals=KEPT)
    assert resize.wanted(made, saying(status()), NOW) == resize.Resize()


def test_a_container_that_requests_the_lowest_by_itself_is_left_alone() -> None:
    made = pod(container(requests=LOWEST))
    changes = resize.wanted(made, saying(asleep()), NOW)
    assert changes.requests == {}
    kept = {"cpu": {"main": "1m"}, "memory": {"main": "1Ki"}}
    assert resize.wanted(pod(container(requests=LOWEST), originals=kept), saying(status()), NOW) == resize.Resize()


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"main": 5}', '{"main": "much"}', '{"main": "-1"}', "null"])
def test_an_annotation_that_makes_no_sense_is_written_anew(text: str) -> None:
    body = pod_body()
    body["metadata"]["annotations"] = {"zeropod.ctrox.dev/cpu-requests": text}
    changes = resize.wanted(read_pod(body), saying(status()), NOW)
    assert changes.annotations["zeropod.ctrox.dev/cpu-requests"] == '{"main":"100m"}'


def test_each_container_is_resized_by_itself() -> None:
    made = pod(container("one"), container("two"), sidecars=(container("side"),))
    changes = resize.wanted(made, saying(asleep("one"), status(name="two"), asleep("side")), NOW)
    assert changes.requests == {"one": LOWEST, "side": LOWEST}
    assert json.loads(changes.annotations["zeropod.ctrox.dev/cpu-requests"]).keys() == {"one", "two", "side"}
    patch = resize.patch_of(made, changes.requests)
    assert patch["spec"] == {
        "containers": [{"name": "one", "resources": {"requests": LOWEST}}],
        "initContainers": [{"name": "side", "resources": {"requests": LOWEST}}],
    }


@pytest.mark.parametrize("more", [{"may_sleep": False}, {"dry_run": True}])
def test_pods_that_never_sleep_are_left_alone(more: dict[str, Any]) -> None:
    assert resize.wanted(pod(), saying(status(**more)), NOW) == resize.Resize()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda body: body["status"].update(qosClass="Guaranteed"), "guaranteed"),
        (lambda body: body["spec"].update(resources={"requests": {"cpu": "1"}}), "pod-level"),
        (lambda body: body["metadata"]["annotations"].update({"kubernetes.io/config.mirror": "x"}), "static"),
    ],
)
def test_what_cannot_be_resized_says_why(change: Any, kind: str) -> None:
    body = pod_body()
    change(body)
    changes = resize.wanted(read_pod(body), saying(asleep()), NOW)
    assert (changes.annotations, changes.requests) == ({}, {})
    assert [notice.kind for notice in changes.notices] == [kind]


def test_a_resize_never_restarts_a_container() -> None:
    policy = [
        {"resourceName": "cpu", "restartPolicy": "RestartContainer"},
        {"resourceName": "memory", "restartPolicy": ""},
    ]
    changes = resize.wanted(pod(container(resizePolicy=policy)), saying(asleep()), NOW)
    assert changes.requests == {"main": {"memory": "1Ki"}}
    assert [notice.kind for notice in changes.notices] == ["restart-policy"]


def pending(reason: str, seconds: float, allocated: dict[str, str]) -> dict[str, Any]:
    since = "2027-01-15T07:58:00Z"  # two minutes before NOW
    assert seconds in (120, 30)
    condition = {
        "type": "PodResizePending",
        "status": "True",
        "reason": reason,
        "message": "no room",
        "lastTransitionTime": since if seconds == 120 else "2027-01-15T07:59:30Z",
    }
    running = {"name": "main", "containerID": "containerd://id-main", "state": {"running": {}}}
    return {"conditions": [condition], "containerStatuses": [{**running, "allocatedResources": allocated}]}


@pytest.mark.parametrize(
    ("reason", "seconds", "allocated", "retried"),
    [
        ("Infeasible", 120, LOWEST, True),
        ("Infeasible", 30, LOWEST, False),
        ("Infeasible", 120, REQUESTS, False),
        ("Deferred", 120, LOWEST, False),  # which the kubelet does by itself
    ],
)
def test_a_raise_that_is_infeasible_is_tried_again(
    reason: str, seconds: float, allocated: dict[str, str], retried: bool
) -> None:
    made = pod(originals=KEPT, **pending(reason, seconds, allocated))
    changes = resize.wanted(made, saying(status()), NOW)
    assert changes.requests == ({"main": LOWEST} if retried else {})
    assert [(notice.kind, notice.is_failure) for notice in changes.notices] == [(reason.lower(), True)]
    assert "no room" in changes.notices[0].text


def test_older_kubernetes_says_a_pending_resize_elsewhere() -> None:
    assert pod(resize="Deferred").pending == PendingResize("Deferred", "", "")
    assert pod(resize="Proposed").pending is None


def counting(**more: Any) -> ContainerStatus:
    made = asleep(restores=3, standby_sleeps=4, cold_sleeps=2, last_restore_ms=1.234, last_checkpoint_ms=1500, **more)
    made.last_restore.FromNanoseconds(int((NOW - 10) * 1e9))
    made.last_checkpoint.FromNanoseconds(int((NOW - 5) * 1e9))
    made.since.FromNanoseconds(int((NOW - 5) * 1e9))
    return made


def test_an_event_counts_what_the_shim_has_counted() -> None:
    told = list(events.wanted(pod(), saying(counting()), (), NOW))
    assert [(each.reason, each.count, each.message) for each in told] == [
        ("Running", 3, "Restored container main in 1.23ms"),
        ("Scaled down", 4, "Scaled down container main in 1.5s"),
    ]


def test_failures_and_dry_runs_are_told_with_their_reason() -> None:
    failed = counting(checkpoint_errors=1, restore_errors=2, dry_run_sleeps=5, message="CRIU says no " + "x" * 2000)
    told = {each.reason: each for each in events.wanted(pod(), saying(failed), (), NOW)}
    assert told.keys() == {"Running", "Scaled down", "Checkpoint failed", "Restore failed", "Dry run"}
    assert told["Checkpoint failed"].message.startswith("Checkpoint failed for container main: CRIU says no xx")
    assert len(told["Checkpoint failed"].message) == events.MAX_MESSAGE
    assert told["Restore failed"].is_warning
    assert told["Dry run"].message == "Dry-run: container main would have been scaled down"


def test_a_plain_start_is_not_told() -> None:
    assert list(events.wanted(pod(), saying(status()), (), NOW)) == []


def test_what_is_older_than_an_event_lives_is_not_told_again() -> None:
    assert list(events.wanted(pod(), saying(counting()), (), NOW + 3600)) == []


def test_an_event_has_one_name_for_each_kind_container_and_pod() -> None:
    def names(made: Any, name: str) -> list[str]:
        return [each.name for each in events.wanted(made, {name: counting()}, (), NOW)]

    every = [*names(pod(), "main"), *names(pod(), "other"), *names(pod(name="api"), "main")]
    assert len(set(every)) == 6
    assert names(pod(), "main") == every[:2]
    assert all(name.startswith("zeropod-status-event-") for name in every)


def test_an_event_has_the_fields_that_users_know() -> None:
    (running, _) = events.wanted(pod(), saying(counting()), (), NOW)
    body = events.body_of(running, pod(), Reporter("node-1", "zeropod-node-x"), "2027-01-01T00:00:00Z")
    assert body["reason"] == "Running"
    assert body["type"] == "Normal"
    assert body["reportingComponent"] == "zeropod.ctrox.dev/manager"
    assert body["reportingInstance"] == "zeropod-node-x"
    assert body["source"] == {"component": "zeropod.ctrox.dev/manager", "host": "node-1"}
    assert body["involvedObject"]["fieldPath"] == "spec.containers{main}"
    assert body["involvedObject"]["uid"] == "uid-web"
    assert (body["firstTimestamp"], body["lastTimestamp"]) == ("2027-01-01T00:00:00Z", "2027-01-15T07:59:50Z")
    assert body["eventTime"] == "2027-01-15T07:59:50.000000Z"
    assert body["count"] == 3


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0.9, "0.9ms"), (12.345, "12.3ms"), (999.9, "1s"), (1000, "1s"), (61000, "61s")]
)
def test_durations_are_short(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


EVERYTHING = Options(labels=True, events=True, resize=True)


def test_nothing_is_wanted_without_a_flag() -> None:
    assert wanted(pod(), saying(counting()), Options(), NOW) == Changes()


@pytest.mark.parametrize("ending", ["deleted", "Succeeded", "Failed"])
def test_a_pod_that_ends_is_left_alone(ending: str) -> None:
    body = pod_body(phase=ending)
    if ending == "deleted":
        body["metadata"]["deletionTimestamp"] = "2027-01-15T07:59:50Z"
    assert wanted(read_pod(body), saying(counting()), EVERYTHING, NOW) == Changes()


def test_a_refusal_is_told_until_nothing_is_refused() -> None:
    refused = wanted(pod(), saying(counting()), EVERYTHING, NOW, "by a quota")
    assert [(notice.kind, notice.text) for notice in refused.notices] == [
        ("refused", "its resize is refused: by a quota")
    ]
    assert "Resize refused" in {each.reason for each in refused.events}
    lowered = pod(container(requests=LOWEST), originals=KEPT)
    assert wanted(lowered, saying(counting()), EVERYTHING, NOW, "by a quota").notices == ()


def test_a_pod_without_anything_is_read() -> None:
    made = read_pod({"metadata": {"name": "web"}})
    assert (made.containers, made.pending, made.is_ending) == ((), None, False)
