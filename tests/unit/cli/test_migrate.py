"""`kubectl zeropod migrate` against a mock of the API server, with a manager that answers as a test wants."""

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from tests.unit.cli.test_commands import parsed
from tests.unit.manager.kube.fake_api import Answer, Asked, FakeApi, status
from tests.unit.manager.migration.build import migration_body, pod, pod_body
from trio.testing import MockClock

from zeropod.cli.kubectl import migrate, to_node
from zeropod.cli.kubectl.cluster import Cluster, CommandError
from zeropod.manager.kube.client import Object, open_client
from zeropod.manager.kube.errors import ApiError

PODS = "/api/v1/namespaces/default/pods"
MIGRATIONS = "/apis/runtime.zeropod.ctrox.dev/v1/namespaces/default/migrations"


@pytest.fixture
def api(nursery: trio.Nursery) -> FakeApi:
    return FakeApi(nursery)


@pytest.fixture
async def cluster(api: FakeApi) -> AsyncIterator[Cluster]:
    async with open_client(api) as client:
        yield Cluster(client, "", api.host)


class Manager:
    """Hears of a Migration, and has it end as it is told once the pod was evicted."""

    def __init__(
        self, api: FakeApi, phase: str = "Completed", reason: str = "", eviction: Answer | None = None
    ) -> None:
        self._api, self._phase, self._reason = api, phase, reason
        self._eviction = eviction or Answer(201, {"kind": "Status", "status": "Success"})
        self.evicted = 0
        self.heard = True
        api.rule = self._rule

    def _rule(self, asked: Asked) -> Answer | None:
        if asked.path.endswith("/eviction"):
            self.evicted += 1
            if self._eviction.status == 201:
                self._say(self._phase, self._reason)
            return self._eviction
        if asked.method == "POST" and asked.path == PODS and asked.body:
            made = copy.deepcopy(asked.body)
            made["metadata"] |= {"name": made["metadata"].pop("generateName") + "x", "uid": "uid-x"}
            return Answer(201, self._api.put(f"{PODS}/{made['metadata']['name']}", made))
        if asked.method == "GET" and asked.is_watch and self.heard:
            self.heard = False
            self._say("Pending", "")
        return None

    def _say(self, phase: str, reason: str) -> None:
        body = copy.deepcopy(self._api.objects[f"{MIGRATIONS}/web-1"])
        said: Object = {"name": "main", "condition": {"phase": phase}}
        body["spec"].setdefault("targetPod", "web-2")
        body["spec"].setdefault("targetNode", "node-2")
        body["status"] = {"phase": phase, "duration": "232ms", "containers": [said]}
        if reason:
            said["reason"] = body["status"]["reason"] = reason
        self._api.put(f"{MIGRATIONS}/web-1", body)


async def run(cluster: Cluster, *arguments: str) -> tuple[int, list[str]]:
    options = parsed("migrate", *arguments)
    done = await migrate.run(cluster, options, "default", options.pods)
    return done, list(options.complaints)


async def test_a_pod_moves(
    api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    api.put(f"{PODS}/web-1", pod_body(live="main"))
    manager = Manager(api)
    assert await run(cluster, "web-1") == (0, [])
    assert manager.evicted == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["pod/web-1 evicted", "web-1 goes on as web-2 on node-2, 232ms without an answer"]
    made = next(asked.body for asked in api.asked if asked.method == "POST" and asked.path == MIGRATIONS)
    assert made
    spec = made["spec"]
    assert (spec["byName"], spec["sourceNode"], spec["sourcePodUID"], spec["parked"]) == (
        True, "node-1", "uid-web-1", False,
    )  # fmt: skip
    evicted = next(asked.body for asked in api.asked if asked.path.endswith("/eviction"))
    assert evicted
    assert evicted["deleteOptions"]["preconditions"] == {"uid": "uid-web-1"}


async def test_what_does_not_move_is_told_with_the_reason(
    api: FakeApi, cluster: Cluster, autojump_clock: MockClock
) -> None:
    api.put(f"{PODS}/web-1", pod_body(live="main"))
    Manager(api, "Failed", "its volume is the node's")
    assert await run(cluster, "web-1") == (1, ["web-1 has not moved: main: Failed: its volume is the node's"])


async def test_a_budget_holds_and_leaves_nothing_behind(
    api: FakeApi, cluster: Cluster, autojump_clock: MockClock
) -> None:
    api.put(f"{PODS}/web-1", pod_body(live="main"))
    Manager(api, eviction=status(429, "TooManyRequests", "it would violate the pod's disruption budget"))
    with pytest.raises(ApiError, match="disruption budget"):
        await run(cluster, "web-1")
    assert f"{MIGRATIONS}/web-1" not in api.objects
    assert f"{PODS}/web-1" in api.objects


async def test_a_manager_that_does_not_answer(api: FakeApi, cluster: Cluster, autojump_clock: MockClock) -> None:
    api.put(f"{PODS}/web-1", pod_body(live="main"))
    manager = Manager(api)
    manager.heard = False
    with pytest.raises(CommandError, match="manager of node-1 has not answered within 30 s"):
        await run(cluster, "web-1")
    assert manager.evicted == 0
    assert f"{MIGRATIONS}/web-1" not in api.objects


async def test_one_under_way_is_left_alone_and_one_that_has_ended_makes_room(
    api: FakeApi, cluster: Cluster, autojump_clock: MockClock
) -> None:
    api.put(f"{PODS}/web-1", pod_body(live="main"))
    before = migration_body(pod("web-1", uid="before"))
    api.put(f"{MIGRATIONS}/web-1", before)
    Manager(api)
    with pytest.raises(CommandError, match="is under way"):
        await run(cluster, "web-1")
    before["status"] = {"containers": [{"name": "main", "condition": {"phase": "Completed"}}]}
    api.put(f"{MIGRATIONS}/web-1", before)
    assert (await run(cluster, "web-1"))[0] == 0


@pytest.mark.parametrize(
    ("of", "arguments", "why"),
    [
        ({"deleted": 1.8e9}, [], "is being deleted already"),
        ({"node": ""}, [], "runs on no node yet"),
        ({}, ["-c", "other"], "container other is not valid"),
        ({"owner": "StatefulSet"}, ["--to", "node-2"], "where the scheduler puts it"),
        ({"owner": "", "revision": ""}, ["--to", "node-2"], "only a ReplicaSet"),
        ({"owner": "", "revision": ""}, [], "would begin anew, without an annotation"),
        ({"revision": ""}, ["--to", "node-2"], "does not tell revisions apart"),
    ],
)
async def test_what_cannot_move(
    api: FakeApi, cluster: Cluster, of: dict[str, Any], arguments: list[str], why: str, autojump_clock: MockClock
) -> None:
    api.put(f"{PODS}/web-1", pod_body(**of))
    with pytest.raises(CommandError, match=why):
        await run(cluster, "web-1", *arguments)
    assert not api.writes


REPLICA_SET = {
    "metadata": {"name": "web", "uid": "uid-ReplicaSet", "namespace": "default"},
    "spec": {
        "template": {
            "metadata": {"labels": {"app": "web", "pod-template-hash": "r1"}, "annotations": {"a": "b"}},
            "spec": {"containers": [{"name": "main"}], "affinity": {"podAffinity": {}}},
        }
    },
}


@pytest.mark.parametrize(("placed", "arguments"), [(True, ["--to", "node-3"]), (False, ["--to", "node-3"]), (True, [])])
async def test_with_a_pod_that_is_made_for_it(
    api: FakeApi, cluster: Cluster, placed: bool, arguments: list[str], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    # Without an annotation the ReplicaSet's own pods would not take over.
    api.put(f"{PODS}/web-1", pod_body(live="main" if arguments else ""))
    api.put("/api/v1/nodes/node-3", {"metadata": {"name": "node-3"}})
    api.put("/apis/apps/v1/namespaces/default/replicasets/web", REPLICA_SET)
    manager = Manager(api)

    async def scheduler() -> None:
        await trio.sleep(2)
        assert "schedulingGates" not in api.objects[f"{PODS}/web-x"]["spec"]
        body = copy.deepcopy(api.objects[f"{PODS}/web-x"])
        body["spec"]["nodeName"] = placed and "node-3"
        body["status"] = {"conditions": [{"type": "PodScheduled", "message": "no room"}]}
        api.put(f"{PODS}/web-x", body)
        if placed:
            await trio.sleep(2)
            taken = copy.deepcopy(api.objects[f"{MIGRATIONS}/web-1"])
            taken["spec"] |= {"targetPod": "web-x", "targetPodUID": "uid-x", "targetNode": "node-3"}
            api.put(f"{MIGRATIONS}/web-1", taken)

    nursery.start_soon(scheduler)
    if not placed:
        with pytest.raises(CommandError, match="no pod can be scheduled to node-3: no room"):
            await run(cluster, "web-1", *arguments)
        assert manager.evicted == 0
        assert f"{PODS}/web-x" not in api.objects
        assert f"{MIGRATIONS}/web-1" not in api.objects
        return
    assert (await run(cluster, "web-1", *arguments))[0] == 0
    made = api.objects[f"{PODS}/web-x"]
    assert made["metadata"]["labels"] == {"app": "web", "pod-template-hash": "r1"}
    first = next(asked.body for asked in api.asked if asked.method == "POST" and asked.path == PODS)
    assert first
    # Not the ReplicaSet's before the old one is on its way.
    assert first["metadata"]["labels"] == {"app": "web"}
    assert not first["metadata"]["ownerReferences"][0].get("controller")
    notes = first["metadata"]["annotations"]
    assert (notes["zeropod.ctrox.dev/live-migrate"], notes["zeropod.ctrox.dev/replaces"]) == ("main", "uid-web-1")
    assert ("nodeAffinity" in first["spec"]["affinity"]) == bool(arguments)
    assert to_node.COST not in made["metadata"]["annotations"]
    spec = api.objects[f"{MIGRATIONS}/web-1"]["spec"]
    assert (spec["targetPod"], spec["targetPodUID"], spec["targetNode"]) == ("web-x", "uid-x", "node-3")
    order = [asked.path.rpartition("/")[2] for asked in api.writes]
    assert order == ["pods", "migrations", "web-x", "eviction", "web-x", "web-x"]


def test_a_node_is_chosen_beside_what_the_template_wants() -> None:
    owner = copy.deepcopy(REPLICA_SET)
    term = {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    owner["spec"]["template"]["spec"]["affinity"] = {"nodeAffinity": {required: {"nodeSelectorTerms": [term]}}}  # type: ignore[index]
    made = to_node.successor(owner, pod(), ["main"], "node-3")
    this = {"key": "metadata.name", "operator": "In", "values": ["node-3"]}
    assert made["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] == [{**term, "matchFields": [this]}]
    assert made["metadata"]["annotations"][to_node.COST] == to_node.HIGHEST
