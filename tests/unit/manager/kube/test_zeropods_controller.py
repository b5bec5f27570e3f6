"""Custom resources stay right whatever fails, and requests are carried out once; against a server in memory."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.unit.manager.kube.test_zeropods import status
from trio.testing import MockClock

from zeropod.manager.kube import zeropods
from zeropod.manager.kube.errors import ApiError, Unreachable
from zeropod.manager.kube.pods import PendingResize
from zeropod.manager.kube.zeropods import Object, Pod
from zeropod.manager.kube.zeropods_controller import REASONS, SIZES, Controller
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.rpc.status import Code, RpcError

KEY = ("default", "web")
PATH = "/apis/runtime.zeropod.ctrox.dev/v1/namespaces/default/zeropods/web"


class Changing:
    """Something that tells of its changes."""

    def __init__(self) -> None:
        self._changed = trio.Event()
        self.ready = True

    async def changed(self) -> None:
        await self._changed.wait()

    def tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Items(Changing):
    def __init__(self) -> None:
        super().__init__()
        self.items: dict[tuple[str, str], Any] = {}

    def put(self, key: tuple[str, str], value: Any) -> None:
        self.items[key] = value
        self.tell()


class Node(Changing):
    """The shims."""

    def __init__(self) -> None:
        super().__init__()
        self.containers: list[ContainerStatus] = []
        self.asked: list[tuple[str, str]] = []
        self.refusal: RpcError | None = None
        self.reasons = [("now", "It is busy.", "Wait.")]

    def say(self, *containers: ContainerStatus) -> None:
        self.containers = list(containers)
        self.tell()

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


class Server:
    """Server-side apply on zeropods, as far as it is used; its watch is instantaneous."""

    def __init__(self, resources: Items) -> None:
        self._resources = resources
        self.stored: dict[str, Object] = {}
        self.writes: list[tuple[str, Object]] = []
        self.rule: Callable[[str], None] = lambda path: None
        self._uids = 0

    async def apply(self, path: str, body: Object) -> Object:
        await trio.sleep(0.01)
        self.rule(path)
        self.writes.append((path, body))
        name = path.removesuffix("/status")
        if path.endswith("/status"):
            if name not in self.stored:
                raise ApiError(404, "NotFound", "not found")
            if body["metadata"].get("uid") != self.stored[name]["metadata"]["uid"]:
                raise ApiError(409, "Conflict", "another uid")
            self.stored[name]["status"] = copy.deepcopy(body["status"])
        else:
            self._uids += 1
            made = self.stored.setdefault(name, {"metadata": {"uid": f"z{self._uids}", "generation": 1}, "spec": {}})
            made["metadata"] |= copy.deepcopy(body["metadata"])
        self.show(name)
        return copy.deepcopy(self.stored[name])

    def show(self, name: str = PATH) -> None:
        metadata = self.stored[name]["metadata"]
        self._resources.put((metadata["namespace"], metadata["name"]), zeropods.keep(copy.deepcopy(self.stored[name])))

    def want(self, wanted: str, **more: Any) -> None:
        """As a person changes the specification."""
        self.stored[PATH]["spec"] = {"containers": [{"name": "main", "wanted": wanted, **more}]}
        self.stored[PATH]["metadata"]["generation"] += 1
        self.show()

    def said(self) -> Object:
        """What the resource says of the container."""
        (container,) = self.stored[PATH]["status"]["containers"]
        assert isinstance(container, dict)
        return container


class World:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.node, self.pods, self.resources = Node(), Items(), Items()
        self.server = Server(self.resources)
        self._nursery = nursery

    def start(self) -> trio.CancelScope:
        """A manager, until its scope is cancelled."""
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await Controller(self.server, self.node, self.pods, self.resources, "node-1").run()

        self._nursery.start_soon(run)
        return scope

    def pod(self, **more: Any) -> None:
        self.pods.put(KEY, Pod("default", "web", **{"uid": "u1", "ready": frozenset({"main"}), **more}))


@pytest.fixture
def world(nursery: trio.Nursery) -> World:
    made = World(nursery)
    made.node.say(status())
    made.pod()
    return made


ASLEEP = status(since=5.0, state=status_pb2.STANDBY, standby_sleeps=1)


async def test_a_new_pod_gets_its_resource(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    assert [path for path, _ in world.server.writes] == [PATH, f"{PATH}/status"]
    stored = world.server.stored[PATH]
    assert stored["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert (stored["status"]["state"], stored["status"]["nodeName"]) == ("RUNNING", "node-1")
    assert world.server.said()["reasons"] == [{"kind": "now", "text": "It is busy.", "remedy": "Wait."}]


async def test_a_change_of_state_is_one_write(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.server.writes.clear()
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
    ((_, body),) = world.server.writes
    assert (body["status"]["state"], body["status"]["memoryGivenBack"]) == ("STANDBY", "100Mi")


async def test_nothing_is_written_that_has_not_changed(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.server.writes.clear()
    for why in ("idle for 1 s", "idle for 2 s"):
        world.node.say(status(why="idle for 0 s"))
        world.node.say(status(why=why))
        await trio.sleep(5)
    assert len(world.server.writes) == 1
    await trio.sleep(10 * REASONS)
    assert len(world.server.writes) == 1


async def test_sizes_of_memory_are_written_now_and_then(autojump_clock: MockClock, world: World) -> None:
    world.start()
    for size in range(600):
        world.node.say(status(memory_backend="store", memory_out_bytes=size << 20))
        await trio.sleep(1)
    assert len(world.server.writes) <= 600 / SIZES + 3


async def test_a_reason_that_has_changed_is_found_without_a_change(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.node.reasons = [("exec", "An exec runs.", "End it.")]
    await trio.sleep(REASONS + 5)
    assert world.server.said()["reasons"][0]["kind"] == "exec"


async def test_a_resize_that_waits_is_told_at_once_and_only_as_long(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    busy = {"kind": "now", "text": "It is busy.", "remedy": "Wait."}
    for pending in (PendingResize("Deferred", "no room for 1 CPU", ""), PendingResize("Infeasible", "too much", "")):
        world.pod(pending=pending)
        await trio.sleep(5)
        first, *rest = world.server.said()["reasons"]
        assert first == {"kind": "resize", "text": f"I{pending.text[1:]}", "remedy": pending.remedy}
        assert rest == [busy]
    # A manager that has just started has what the resource says, until a shim has answered.
    restarted = world.start()
    await trio.sleep(5)
    restarted.cancel()
    world.pod()
    await trio.sleep(5)
    assert world.server.said()["reasons"] == [busy]


async def test_what_is_wanted_is_done_once(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    world.server.want("Asleep")
    await trio.sleep(5)
    assert world.node.done == [("sleep", "c1")]
    (request,) = world.server.said()["requests"]
    assert (request["source"], request["wanted"], request["outcome"]) == ("Spec", "Asleep", "Done")
    world.node.say(ASLEEP)
    world.node.say(status(since=9.0, standby_sleeps=1, restores=1))
    await trio.sleep(500)
    assert world.node.done == [("sleep", "c1")]
    world.server.want("Asleep", requestedAt="2026-01-01T00:00:00Z")
    await trio.sleep(5)
    assert world.node.done == [("sleep", "c1")] * 2


async def test_a_manager_that_starts_anew_does_not_repeat_it(autojump_clock: MockClock, world: World) -> None:
    first = world.start()
    await trio.sleep(5)
    world.server.want("Asleep")
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
    world.server.want("Asleep")
    await trio.sleep(50)
    assert world.node.done == []
    world.start()
    await trio.sleep(5)
    assert world.node.done == [("sleep", "c1")]


async def test_a_refusal_is_told(autojump_clock: MockClock, world: World) -> None:
    world.node.refusal = RpcError(Code.FAILED_PRECONDITION, "cannot put c1 to sleep: exec 7 is running")
    world.start()
    await trio.sleep(5)
    world.server.want("Asleep")
    await trio.sleep(1)
    (request,) = world.server.said()["requests"]
    assert (request["outcome"], request["reason"]) == ("Refused", "cannot put main to sleep: exec 7 is running")


async def test_it_is_put_to_sleep_when_it_is_ready(autojump_clock: MockClock, world: World) -> None:
    world.pod(ready=frozenset(), wanted="Asleep")
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
    assert "'later'" in world.server.stored[PATH]["status"]["problem"]
    assert world.node.done == []


async def test_a_resource_of_another_pod_wants_nothing(autojump_clock: MockClock, world: World) -> None:
    # Of the pod that had this name before, or made by somebody with another pod's uid.
    identity = zeropods.identity(Pod("default", "web", "u0"), "node-1")
    identity["metadata"] |= {"uid": "z0", "generation": 1}
    world.server.stored[PATH] = {**identity, "spec": {}, "status": {}}
    world.server.want("Asleep")
    seen: list[list[tuple[str, str]]] = []
    world.server.rule = lambda path: seen.append(world.node.done)
    world.start()
    await trio.sleep(5)
    assert seen[0] == []
    assert world.server.stored[PATH]["metadata"]["ownerReferences"][0]["uid"] == "u1"


async def test_another_pods_containers_are_not_touched(autojump_clock: MockClock, world: World) -> None:
    world.node.say(status(), status("c9", pod_uid="u9"))
    world.start()
    await trio.sleep(5)
    world.server.want("Asleep")
    world.server.stored[PATH]["spec"]["containers"][0]["name"] = "c9"
    world.server.show()
    await trio.sleep(5)
    assert set(world.node.done) <= {("sleep", "c1")}


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("connection refused"), ApiError(409, "Conflict", ""), ApiError(429, "TooManyRequests", "", 5.0),
        ApiError(500, "InternalError", ""), ApiError(403, "Forbidden", ""), ApiError(404, "", "404 page not found"),
    ],
    ids=lambda error: str(error.status),
)  # fmt: skip
async def test_all_is_right_soon_after_any_failure(autojump_clock: MockClock, world: World, error: ApiError) -> None:
    def fail(path: str) -> None:
        raise error

    world.start()
    await trio.sleep(5)
    world.server.rule = fail
    world.server.want("Asleep")
    await trio.sleep(60)
    assert world.node.done == [("sleep", "c1")]
    world.node.say(ASLEEP)
    await trio.sleep(60)
    world.server.rule = lambda path: None
    await trio.sleep(30)
    assert (world.server.said()["state"], len(world.server.said()["requests"])) == ("STANDBY", 1)
    assert world.node.done == [("sleep", "c1")]


async def test_one_that_was_deleted_comes_back(autojump_clock: MockClock, world: World) -> None:
    world.start()
    await trio.sleep(5)
    del world.server.stored[PATH], world.resources.items[KEY]
    world.resources.tell()
    await trio.sleep(5)
    assert world.server.said()["state"] == "RUNNING"


async def test_one_that_was_deleted_unseen_comes_back_with_the_next_change(
    autojump_clock: MockClock, world: World
) -> None:
    world.start()
    await trio.sleep(5)
    del world.server.stored[PATH]
    world.node.say(ASLEEP)
    await trio.sleep(20)
    assert world.server.said()["state"] == "STANDBY"


async def test_a_pod_that_ends_is_left_alone(autojump_clock: MockClock, world: World) -> None:
    world.pod(ends=True)
    world.start()
    await trio.sleep(50)
    assert world.server.writes == []


async def test_nothing_is_done_before_all_is_known(autojump_clock: MockClock, world: World) -> None:
    world.resources.ready = False
    world.start()
    await trio.sleep(50)
    assert world.server.writes == []
    world.resources.ready = True
    world.resources.tell()
    await trio.sleep(5)
    assert world.server.writes
