"""What a custom resource says, what its schema allows, and what is a change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from zeropod.manager.kube import zeropods
from zeropod.manager.kube.crd import GROUP_VERSION, KIND, PLURAL
from zeropod.manager.kube.on_demand import Outcome, Request, Source, Wanted, record
from zeropod.manager.kube.pods import PendingResize, Pod, read_pod
from zeropod.manager.kube.zeropods import blank, container_status, differs, pod_status, timestamp
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

CRD = Path(__file__).resolve().parents[4] / "installer/manifests/components/zeropods/crd.yaml"
POD = Pod("default", "web", "u1", "1")
SECOND = 1_000_000_000


def status(id: str = "c1", since: float = 1.0, **fields: Any) -> ContainerStatus:
    made = ContainerStatus(
        **{"id": id, "container": "main", "pod_uid": "u1", "state": status_pb2.RUNNING, "may_sleep": True, **fields}
    )
    made.since.FromNanoseconds(round(since * SECOND))
    return made


SPEC: dict[str, Any] = yaml.safe_load(CRD.read_text())["spec"]
(VERSION,) = SPEC["versions"]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
}  # fmt: skip


def faults(value: Any, allowed: dict[str, Any], path: str = "") -> list[str]:
    """What the API server would refuse or drop of a value."""
    if not isinstance(value, TYPES[allowed["type"]]) or (isinstance(value, bool) and allowed["type"] != "boolean"):
        return [f"{path} is not of type {allowed['type']}"]
    found = []
    if isinstance(value, dict):
        properties = allowed.get("properties", {})
        found += [f"{path}.{name} is not in the schema" for name in value.keys() - properties.keys()]
        found += [f"{path}.{name} is missing" for name in set(allowed.get("required", ())) - value.keys()]
        for name in value.keys() & properties.keys():
            found += faults(value[name], properties[name], f"{path}.{name}")
    elif isinstance(value, list):
        keys = allowed.get("x-kubernetes-list-map-keys")
        if keys and len({tuple(each[key] for key in keys) for each in value}) < len(value):
            found.append(f"{path} has two of the same {keys}")
        if len(value) > allowed.get("maxItems", len(value)):
            found.append(f"{path} is too long")
        for each in value:
            found += faults(each, allowed["items"], f"{path}[]")
    if "enum" in allowed and value not in allowed["enum"]:
        found.append(f"{path} is none of {allowed['enum']}")
    if isinstance(value, str) and len(value) > allowed.get("maxLength", len(value)):
        found.append(f"{path} is too long")
    return found


STATUSES = st.builds(
    status,
    id=st.text("abcdef", min_size=1),
    since=st.floats(0, 4e9),
    state=st.sampled_from(State.values()),
    standby_sleeps=st.integers(0, 2**40),
    restores=st.integers(0, 2**40),
    last_restore_ms=st.floats(0, 1e9),
    memory_backend=st.sampled_from(["", "swap", "store", "resident"]),
    memory_out_bytes=st.integers(0, 2**50),
    why=st.text(max_size=3000),
    message=st.text(max_size=3000),
)
REASONS = st.lists(st.tuples(st.text(), st.text(max_size=2000), st.text(max_size=2000)), max_size=50)


@given(STATUSES, REASONS, st.text(max_size=2000))
def test_all_that_is_said_is_in_the_schema(each: ContainerStatus, reasons: Any, problem: str) -> None:
    requests = [record(Request(source, Wanted.AWAKE, "t"), Outcome.REFUSED, "why", "t") for source in Source]
    said = pod_status([container_status(each, {}, reasons, requests)], "node-1", 3, problem)
    assert faults({**said, "lastUpdateTime": "t"}, SCHEMA["properties"]["status"]) == []


def test_the_check_finds_what_is_not_in_the_schema() -> None:
    said = pod_status([container_status(status())], "node-1", 3)
    said["containers"][0]["extra"] = 1
    assert faults(said, SCHEMA["properties"]["status"]) == [".containers[].extra is not in the schema"]


def test_the_names_are_those_of_the_definition() -> None:
    assert (f"{SPEC['group']}/v1", SPEC["names"]["kind"], SPEC["names"]["plural"]) == (GROUP_VERSION, KIND, PLURAL)
    entry = SCHEMA["properties"]["spec"]["properties"]["containers"]["items"]["properties"]
    assert entry["wanted"]["enum"] == list(Wanted)
    request = SCHEMA["properties"]["status"]["properties"]["containers"]["items"]["properties"]["requests"]["items"]
    assert request["properties"]["outcome"]["enum"] == list(Outcome)
    assert request["properties"]["source"]["enum"] == list(Source)


def test_every_column_shows_what_there_is() -> None:
    properties = SCHEMA["properties"]["status"]["properties"]
    assert {each["jsonPath"].removeprefix(".status.") for each in VERSION["additionalPrinterColumns"]} <= set(
        properties
    )


def test_a_nap_is_no_change() -> None:
    asleep = container_status(status(state=status_pb2.STANDBY, standby_sleeps=1))
    for state in (status_pb2.DOZING, status_pb2.CHECKPOINTING, status_pb2.STANDBY):
        napped = container_status(status(since=5.0, state=state, standby_sleeps=1), asleep)
        assert (napped["state"], napped["since"]) == ("STANDBY", asleep["since"])


def test_a_wake_between_two_looks_is_a_change() -> None:
    asleep = container_status(status(state=status_pb2.STANDBY, standby_sleeps=1))
    again = container_status(status(since=5.0, state=status_pb2.STANDBY, standby_sleeps=2, restores=1), asleep)
    assert again["since"] == timestamp(5 * SECOND)
    assert differs(pod_status([asleep], "n", 1), pod_status([again], "n", 1)) == "state"


def test_a_container_that_was_started_again_is_another_one() -> None:
    before = container_status(status(why="busy"))
    assert container_status(status("c2", 9.0), before)["since"] == timestamp(9 * SECOND)


def test_figures_alone_are_no_other_reason() -> None:
    before = container_status(status(why="the last connection came 0.5 s ago"), {}, [("now", "Idle for 5 s.", "")])
    after = container_status(status(why="the last connection came 12 s ago"), before, [("now", "Idle for 61 s.", "")])
    assert after["why"] == before["why"]
    assert differs(pod_status([before], "n", 1), pod_status([after], "n", 1)) == ""
    other = container_status(status(why="exec 7 is running"), before, [("exec", "An exec runs.", "")])
    assert differs(pod_status([before], "n", 1), pod_status([other], "n", 1)) == "details"


def test_sizes_of_memory_alone_are_told_apart() -> None:
    before, after = (
        pod_status([container_status(status(memory_backend="store", memory_out_bytes=size << 20))], "n", 1)
        for size in (100, 90)
    )
    assert before["memoryGivenBack"] == "100Mi"
    assert differs(before, after) == "details"


def test_a_pod_is_as_awake_as_its_most_wakeful_container() -> None:
    asleep = container_status(status(state=status_pb2.STANDBY, container="db"))
    awake = container_status(status("c2", 3.0, why="exec 7 is running", restores=2, last_restore_ms=1.25))
    said = pod_status([asleep, awake], "n", 1)
    assert (said["state"], said["asleep"], said["why"]) == ("RUNNING", "1/2", "exec 7 is running")
    assert (said["since"], said["wakes"], said["lastWakeMilliseconds"]) == (timestamp(3 * SECOND), 2, 1.25)


def test_a_pods_containers_are_those_with_its_uid() -> None:
    ours, sandbox = status(), status("s1", sandbox="s1")
    foreign, nameless = status("c9", pod_uid="u2"), status("c8", pod_uid="")
    old = status("c0", 0.5)
    assert POD.statuses([old, ours, sandbox, foreign, nameless]) == {"main": ours}
    assert Pod("default", "web", "", "1").statuses([nameless]) == {}


def test_one_that_runs_counts_before_one_that_has_ended_later() -> None:
    ended = status("c2", 9.0, state=status_pb2.STOPPED)
    assert POD.statuses([ended, status()]) == {"main": status()}


@pytest.mark.parametrize(
    ("owner", "node", "ours"),
    [("u1", "n", True), ("u2", "n", False), ("u1", "m", False), ("", "n", False)],
)
def test_whose_a_resource_is(owner: str, node: str, ours: bool) -> None:
    resource = zeropods.identity(Pod("default", "web", owner, "1"), node)
    resource["metadata"]["uid"] = "z1"
    if not owner:
        del resource["metadata"]["ownerReferences"]
    assert zeropods.is_of(zeropods.keep(resource), POD, "n") is ours


def test_a_pod_of_the_same_name_from_before_is_another_one() -> None:
    before = zeropods.identity(Pod("default", "web", "u0", "1"), "n")
    before["metadata"]["uid"] = "z1"
    assert not zeropods.is_of(zeropods.keep(before), POD, "n")


@given(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=253))
def test_every_node_name_makes_a_label(node: str) -> None:
    assert 0 < len(zeropods.label_value(node)) <= 63


def test_what_is_wanted_of_a_pod_and_whether_it_can_be() -> None:
    pod: dict[str, Any] = {
        "metadata": {
            "namespace": "default", "name": "web", "uid": "u1", "deletionTimestamp": "t",
            "annotations": {"zeropod.ctrox.dev/wanted": "Asleep"},
        },
        "status": {"containerStatuses": [{"name": "main", "ready": True}, {"name": "db", "ready": False}]},
    }  # fmt: skip
    read = read_pod(pod)
    assert dict(read.annotated) == {"": Wanted.ASLEEP}
    assert read.is_deleted
    assert set(read.ready) == {"main"}
    pod["metadata"]["annotations"] = {"zeropod.ctrox.dev/wanted": "later"}
    assert "'later'" in read_pod(pod).problem


def test_figures_are_blanked() -> None:
    assert blank("from 10.88.0.1:4711 to [::1]:80, 0.5 s ago") == blank("from 10.9.0.12:11 to [::1]:443, 12 s ago")


RESIZING = {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "no room"}


@pytest.mark.parametrize(
    ("status", "pending"),
    [
        ({}, None),
        ({"conditions": [RESIZING]}, PendingResize("Deferred", "no room", "")),
        ({"conditions": [{**RESIZING, "status": "False"}]}, None),
        ({"resize": "Infeasible"}, PendingResize("Infeasible", "", "")),
    ],
)
def test_a_resize_that_is_not_carried_out_is_kept_of_a_pod(status: Any, pending: PendingResize | None) -> None:
    assert read_pod({"metadata": {"namespace": "default", "name": "web"}, "status": status}).pending == pending


def test_a_resize_is_told_before_what_the_shim_says() -> None:
    said = [("now", "It is busy.", "")]
    assert zeropods.reasons_of(POD, said) == said
    found = zeropods.reasons_of(replace(POD, pending=PendingResize("Infeasible", "", "")), said)
    assert [reason[:2] for reason in found] == [
        ("resize", "Its resize is infeasible: the kubelet does not say why"),
        ("now", "It is busy."),
    ]
    assert "request less" in found[0][2]


def test_a_resize_that_waits_is_no_passing_detail() -> None:
    def said(*reasons: tuple[str, str, str]) -> Any:
        return pod_status([container_status(status(), None, reasons)], "node-1", 1)

    busy, waits = ("now", "It is busy.", ""), ("resize", "Its resize is deferred: 3 are there.", "Wait.")
    assert differs(said(busy), said(waits, busy)) == differs(said(waits), said()) == "resize"
    assert differs(said(waits), said(waits, busy)) == "details"
    assert differs(said(waits), said(("resize", "Its resize is deferred: 4 are there.", "Wait."))) == ""
