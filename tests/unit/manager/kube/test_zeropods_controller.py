"""Custom resources stay right whatever fails, and requests are carried out once; against a server in memory."""

import copy
from typing import Any

import pytest
import trio
from tests.unit.manager.kube.fake_api import Answer, Asked, FakeApi
from tests.unit.manager.kube.fake_api import status as failure
from tests.unit.manager.kube.test_zeropods import status
from trio.testing import MockClock

from zeropod.manager.kube import zeropods
from zeropod.manager.kube.client import Client, Object
from zeropod.manager.kube.events import Reporter
from zeropod.manager.kube.pods import PendingResize, Pod
from zeropod.manager.kube.reconcile import DETAILS, LASTING, REASONS, Reconciler
from zeropod.manager.kube.work import Options
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.rpc.status import Code, RpcError

POD = "/api/v1/namespaces/default/pods/web"
PATH = "/apis/runtime.zeropod.ctrox.dev/v1/namespaces/default/zeropods/web"


class Node:
    """The shims."""

    def __init__(self) -> None:
        self._changed = trio.Event()
        self.ready = True
        self.containers: list[ContainerStatus] = []
        self.asked: list[tuple[str, str]] = []
        self.refusal: RpcError | None = None
        self.reasons = [("now", "It is busy.", "Wait.")]

    async def changed(self) -> None:
        await self._changed.wait()

    def by_pod(self) -> dict[str, list[ContainerStatus]]:
        found: dict[str, list[ContainerStatus]] = {}
        for each in self.containers:
            found.setdefault(each.pod_uid, []).append(each)
        return found

    def say(self, *containers: ContainerStatus) -> None:
        for each in containers:
            if not each.reasons:
                each.reasons.extend(status_pb2.Reason(kind=k, text=t, remedy=r) for k, t, r in self.reasons)
        self.containers = list(containers)
        self._changed.set()
        self._changed = trio.Event()

    async def why(self, id: str) -> list[tuple[str, str, str]]:
        await trio.lowlevel.checkpoint()
        self.asked.append(("why", id))
        return self.reasons

    async def sleep(self, id: str) -> None:
        await self._do("sleep", id)

    async def wake(self, id: str) -> None:
        await self._do("wake", id)

    async def _do(self, what: str, id: str) -> None:
        await trio.sleep(0.01)
        self.asked.append((what, id))
        if self.refusal:
            raise self.refusal

    @property
    def done(self) -> list[tuple[str, str]]:
        return [each for each in self.asked if each[0] != "why"]


class World:
    def __init__(self, api: FakeApi, client: Client, nursery: trio.Nursery) -> None:
        self.api, self.node = api, Node()
        self._client, self._nursery = client, nursery

    def start(self) -> trio.CancelScope:
        """A manager, until its scope is cancelled."""
        scope = trio.CancelScope()
        made = Reconciler(self._client, self.node, Options(zeropods=True), Reporter("node-1", "manager"))

        async def run() -> None:
            with scope:
                await made.run()

        self._nursery.start_soon(run)
        return scope

    def pod(
        self, *, wanted: str = "", ready: bool = True, pending: PendingResize | None = None, **metadata: Any
    ) -> None:
        noted = {"zeropod.ctrox.dev/wanted": wanted} if wanted else {}
        about = {"namespace": "default", "name": "web", "uid": "u1", "annotations": noted, **metadata}
        main = {"name": "main", "ready": ready, "state": {"running": {}}}
        told: Object = {"containerStatuses": [main]}
        if pending:
            resize = {"type": "PodResizePending", "status": "True"}
            told["conditions"] = [{**resize, "reason": pending.reason, "message": pending.message}]
        self.api.put(POD, {"metadata": about, "spec": {}, "status": told})

    def want(self, wanted: str, name: str = "main", **more: Any) -> None:
        """As a person changes the specification."""
        body = copy.deepcopy(self.api.objects[PATH])
        body["spec"] = {"containers": [{"name": name, "wanted": wanted, **more}]}
        body["metadata"]["generation"] = body["metadata"].get("generation", 1) + 1
        self.api.put(PATH, body)

    @property
    def stored(self) -> Object:
        return self.api.objects[PATH]

    def said(self) -> Object:
        """What the resource says of the container."""
        (container,) = self.stored["status"]["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def writes(self) -> list[Asked]:
        return self.api.writes


@pytest.fixture
def world(api: FakeApi, client: Client, nursery: trio.Nursery) -> World:
    made = World(api, client, nursery)
    made.node.say(status())
    made.pod()
    return made


ASLEEP = status(since=5.0, state=status_pb2.STANDBY, standby_sleeps=1)


async def test_a_new_pod_gets_its_resource(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    assert [asked.path for asked in world.writes] == [PATH, f"{PATH}/status"]
    stored = world.stored
    assert stored["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert (stored["status"]["state"], stored["status"]["nodeName"]) == ("RUNNING", "node-1")
    assert world.said()["reasons"] == [{"kind": "now", "text": "It is busy.", "remedy": "Wait."}]


async def test_a_change_of_state_is_one_write(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.api.asked.clear()
    moving = status(since=5.0, state=status_pb2.STANDBY, standby_sleeps=1, memory_backend="store", memory_moving=True)
    world.node.say(status(state=status_pb2.CHECKPOINTING))
    await trio.sleep(0.05)
    world.node.say(moving)
    await trio.sleep(1)
    moved = ContainerStatus()
    moved.CopyFrom(moving)
    moved.memory_moving, moved.memory_out_bytes = False, 100 << 20
    world.node.say(moved)
    await trio.sleep(5)
    (asked,) = world.writes
    body = asked.body or {}
    assert (body["status"]["state"], body["status"]["memoryGivenBack"]) == ("STANDBY", "100Mi")


async def test_nothing_is_written_that_has_not_changed(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.api.asked.clear()
    for why in ("idle for 1 s", "idle for 2 s"):
        world.node.say(status(why="idle for 0 s"))
        world.node.say(status(why=why))
        await trio.sleep(5)
    assert world.writes == []
    await trio.sleep(10 * REASONS)
    assert len(world.writes) == 1


async def test_a_reason_that_passes_is_not_written(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.api.asked.clear()
    for _ in range(100):
        world.node.say(status(why="a request is under way"))
        await trio.sleep(0.5)
        world.node.say(status())
        await trio.sleep(5)
    assert world.writes == []


async def test_sizes_of_memory_are_written_now_and_then(autojump_clock: MockClock, world: World) -> None:
    world.start()
    for size in range(600):
        world.node.say(status(memory_backend="store", memory_out_bytes=size << 20))
        await trio.sleep(1)
    assert len(world.writes) <= 600 / DETAILS + 3


async def test_a_reason_that_has_changed_is_found_without_a_change(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.node.reasons = [("exec", "An exec runs.", "End it.")]
    await trio.sleep(REASONS + 5)
    assert world.said()["reasons"][0]["kind"] == "exec"


async def test_a_resize_that_waits_is_told_soon_and_only_as_long(autojump_clock: MockClock, world: World) -> None:
    manager = world.start()
    await trio.sleep(5)
    busy = {"kind": "now", "text": "It is busy.", "remedy": "Wait."}
    for pending in (PendingResize("Deferred", "no room for 1 CPU", ""), PendingResize("Infeasible", "too much", "")):
        world.pod(pending=pending)
        await trio.sleep(LASTING + 2)
        first, *rest = world.said()["reasons"]
        assert first == {"kind": "resize", "text": f"I{pending.text[1:]}", "remedy": pending.remedy}
        assert rest == [busy]
    # A manager that has just started has it from the resource, and does not keep it.
    manager.cancel()
    world.pod()
    world.start()
    await trio.sleep(LASTING + 2)
    assert world.said()["reasons"] == [busy]


async def test_a_resize_that_is_soon_carried_out_is_not_written(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.api.asked.clear()
    for _ in range(10):
        world.pod(pending=PendingResize("Deferred", "no room", ""))
        await trio.sleep(LASTING / 2)
        world.pod()
        await trio.sleep(LASTING)
    assert world.writes == []


async def test_what_is_wanted_is_done_once(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.want("Asleep")
    await trio.sleep(5)
    assert world.node.done == [("sleep", "c1")]
    (request,) = world.said()["requests"]
    assert (request["source"], request["wanted"], request["outcome"]) == ("Spec", "Asleep", "Done")
    world.node.say(ASLEEP)
    world.node.say(status(since=9.0, standby_sleeps=1, restores=1))
    await trio.sleep(500)
    assert world.node.done == [("sleep", "c1")]
    world.want("Asleep", requestedAt="2026-01-01T00:00:00Z")
    await trio.sleep(5)
    assert world.node.done == [("sleep", "c1")] * 2


async def test_the_outcome_is_told_with_the_state(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    seen: list[tuple[str, bool]] = []

    def rule(asked: Asked) -> Answer | None:
        if asked.path.endswith("/status") and asked.body:
            (container,) = asked.body["status"]["containers"]
            seen.append((container["state"], "requests" in container))
        return None

    world.api.rule = rule
    world.want("Asleep")
    await trio.sleep(0.5)
    assert world.node.done == [("sleep", "c1")]
    # The shim has slept, and tells of it a moment later.
    world.node.say(ASLEEP)
    await trio.sleep(5)
    assert [each for each in seen if each[1]] == [("STANDBY", True)]


async def test_a_manager_that_starts_anew_does_not_repeat_it(autojump_clock: MockClock, world: World) -> None:
    first = world.start()
    await trio.sleep(5)
    world.want("Asleep")
    await trio.sleep(5)
    first.cancel()
    world.start()
    world.node.say(status("c2"))  # and the container was started again, too
    await trio.sleep(50)
    assert world.node.done == [("sleep", "c1")]


async def test_what_was_wanted_while_there_was_no_manager_is_done(autojump_clock: MockClock, world: World) -> None:
    world.start().cancel()
    first = world.start()
    await trio.sleep(5)
    first.cancel()
    world.want("Asleep")
    await trio.sleep(50)
    assert world.node.done == []
    world.start()
    await trio.sleep(5)
    assert world.node.done == [("sleep", "c1")]


async def test_a_refusal_is_told(autojump_clock: MockClock, world: World) -> None:
    world.node.refusal = RpcError(Code.FAILED_PRECONDITION, "cannot put c1 to sleep: exec 7 is running")
    world.start()
    await trio.sleep(5)
    world.want("Asleep")
    await trio.sleep(1)
    (request,) = world.said()["requests"]
    assert (request["outcome"], request["reason"]) == ("Refused", "cannot put main to sleep: exec 7 is running")


async def test_it_is_put_to_sleep_when_it_is_ready(autojump_clock: MockClock, world: World) -> None:
    world.pod(ready=False, wanted="Asleep")
    world.start()
    await trio.sleep(50)
    assert world.node.done == []
    world.pod(wanted="Asleep")
    await trio.sleep(5)
    assert world.node.done == [("sleep", "c1")]


async def test_an_annotation_that_means_nothing_is_told(autojump_clock: MockClock, world: World) -> None:
    world.pod(wanted="later")
    world.start()
    await trio.sleep(5)
    assert "'later'" in world.stored["status"]["problem"]
    assert world.node.done == []


async def test_a_resource_of_another_pod_wants_nothing(autojump_clock: MockClock, world: World) -> None:
    # Of the pod that had this name before, or made by somebody with another pod's uid.
    world.api.put(PATH, {**zeropods.identity(Pod("default", "web", "u0", "1"), "node-1"), "spec": {}, "status": {}})
    world.want("Asleep")
    seen: list[list[tuple[str, str]]] = []

    def rule(asked: Asked) -> Answer | None:
        if asked.is_write:
            seen.append(world.node.done)
        return None

    world.api.rule = rule
    world.start()
    await trio.sleep(5)
    assert seen[0] == []
    assert world.stored["metadata"]["ownerReferences"][0]["uid"] == "u1"


async def test_another_pods_containers_are_not_touched(autojump_clock: MockClock, world: World) -> None:
    world.node.say(status(), status("c9", pod_uid="u9"))
    world.start()
    await trio.sleep(5)
    world.want("Asleep", "c9")
    await trio.sleep(5)
    assert set(world.node.done) <= {("sleep", "c1")}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"nonsense"), Answer(200, {"metadata": {"name": "web"}}), failure(409, "Conflict"),
        failure(429, "TooManyRequests", retryAfterSeconds=5), failure(500, "InternalError"),
        failure(403, "Forbidden"), Answer(404, b"404 page not found"),
    ],
)  # fmt: skip
async def test_all_is_right_soon_after_any_failure(autojump_clock: MockClock, world: World, answer: Answer) -> None:
    world.start()
    await trio.sleep(5)
    world.api.rule = lambda asked: answer if asked.is_write else None
    world.want("Asleep")
    await trio.sleep(60)
    assert world.node.done == [("sleep", "c1")]
    world.node.say(ASLEEP)
    await trio.sleep(60)
    world.api.rule = lambda asked: None
    await trio.sleep(40)
    assert (world.said()["state"], len(world.said()["requests"])) == ("STANDBY", 1)
    assert world.node.done == [("sleep", "c1")]


async def test_one_that_was_deleted_comes_back(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.api.remove(PATH)
    await trio.sleep(5)
    assert world.said()["state"] == "RUNNING"


async def test_a_pod_that_ends_is_left_alone(autojump_clock: MockClock, world: World) -> None:
    world.pod(deletionTimestamp="2026-01-01T00:00:00Z")
    world.start()
    await trio.sleep(50)
    assert world.writes == []


async def test_nothing_is_done_before_all_is_known(autojump_clock: MockClock, world: World) -> None:
    world.api.rule = lambda asked: failure(404, "NotFound") if "zeropods" in asked.path else None
    world.start()
    await trio.sleep(50)
    assert world.writes == []
    world.api.rule = lambda asked: None
    await trio.sleep(20)
    assert world.said()["state"] == "RUNNING"
