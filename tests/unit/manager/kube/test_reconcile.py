"""The manager's side of the API through every failure of a mock API server (see fake_api.py), on a test clock."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
import trio
from tests.unit.manager.kube.build import LOWEST, NOW, REQUESTS, asleep, container, pod_body, status
from tests.unit.manager.kube.fake_api import Answer, Asked, FakeApi
from tests.unit.manager.kube.fake_api import status as failure
from trio.testing import MockClock

from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.events import Reporter
from zeropod.manager.kube.metrics import KubeCollector
from zeropod.manager.kube.pods import read_pod
from zeropod.manager.kube.reconcile import SERIES, Reconciler
from zeropod.manager.kube.work import Options
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

EVERYTHING = Options(labels=True, events=True, resize=True)


class FakeNode:
    """What the shims say."""

    def __init__(self) -> None:
        self.said: dict[str, ContainerStatus] = {}
        self.ready = True
        self._changed = trio.Event()

    def by_pod(self) -> dict[str, list[ContainerStatus]]:
        return {each.pod_uid: [each] for each in self.said.values()}

    async def changed(self) -> None:
        await self._changed.wait()

    async def why(self, id: str) -> list[tuple[str, str, str]]:
        await trio.lowlevel.checkpoint()
        return []

    async def sleep(self, id: str) -> None:
        raise AssertionError("nobody wants that here")

    wake = sleep

    def say(self, made: ContainerStatus) -> None:
        self.said[made.pod] = made
        self._changed.set()
        self._changed = trio.Event()


@dataclass
class World:
    """A node with pods, the API, and a manager between them."""

    api: FakeApi
    client: Client
    nursery: trio.Nursery
    node: FakeNode = field(default_factory=FakeNode)
    sleeps: dict[str, int] = field(default_factory=dict)
    managers: list[Reconciler] = field(default_factory=list)

    def path(self, name: str) -> str:
        return path_of("v1", "pods", "default", name)

    def add(self, name: str, body: Object | None = None) -> None:
        made = body or pod_body(name=name)
        self.api.put(self.path(name), made)
        self.say(name, status())

    def say(self, name: str, made: ContainerStatus) -> None:
        made.id, made.pod, made.pod_uid = f"id-{name}", name, f"uid-{name}"
        self.node.say(made)

    def sleep(self, name: str = "web") -> None:
        self.sleeps[name] = self.sleeps.get(name, 0) + 1
        self.say(name, self._counted(asleep(), name))

    def wake(self, name: str = "web") -> None:
        self.say(name, self._counted(status(), name))

    def _counted(self, made: ContainerStatus, name: str) -> ContainerStatus:
        made.standby_sleeps = self.sleeps.get(name, 0)
        made.restores = made.standby_sleeps - (made.state == asleep().state)
        for stamp in (made.last_checkpoint, made.last_restore, made.since):
            stamp.FromNanoseconds(int((NOW - 60) * 1e9))
        return made

    def start(self, options: Options = EVERYTHING) -> trio.CancelScope:
        """A manager, which ends when the scope is cancelled."""
        scope = trio.CancelScope()
        made = Reconciler(self.client, self.node, options, Reporter("node-1", "manager"), lambda: NOW)
        self.managers.append(made)

        async def run() -> None:
            with scope:
                await made.run()

        self.nursery.start_soon(run)
        return scope

    def is_right(self) -> bool:
        """Whether the API says of every pod what its shim says."""
        for name, said in self.node.said.items():
            made = read_pod(self.api.objects[self.path(name)])
            sleeps = said.state == asleep().state
            told = {each["reason"]: each["count"] for each in self.events(name)}
            expected = {"Scaled down": said.standby_sleeps, "Running": said.restores}
            if (
                made.labels != {"main": "SCALED_DOWN" if sleeps else "RUNNING"}
                or made.containers[0].requests != (LOWEST if sleeps else REQUESTS)
                or made.originals != {key: {"main": value} for key, value in REQUESTS.items()}
                or told != {key: value for key, value in expected.items() if value}
            ):
                return False
        return True

    def events(self, name: str = "web") -> list[Object]:
        found = [body for path, body in self.api.objects.items() if "/events/" in path]
        return [body for body in found if body["involvedObject"]["name"] == name]

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - of a mock that tells nobody
                await trio.sleep(0.5)


@pytest.fixture
async def world(api: FakeApi, client: Client, nursery: trio.Nursery) -> World:
    return World(api, client, nursery)


async def test_all_of_it_follows_a_sleep_and_a_wake(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start()
    await world.until(world.is_right)
    for _ in range(3):
        world.sleep()
        await world.until(world.is_right)
        world.wake()
        await world.until(world.is_right)
    assert len(world.events()) == 2


def kinds(writes: list[Asked]) -> dict[str, int]:
    """How many there are of each kind."""
    return dict(Counter(next(kind for kind in KINDS if kind in asked.path) for asked in writes))


KINDS = ("zeropods", "events", "resize", "pods")


async def test_each_change_is_at_most_three_writes(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start()
    await world.until(world.is_right)
    for change in (world.sleep, world.wake, world.sleep):
        before = len(world.api.writes)
        change()
        await trio.sleep(100)
        assert world.is_right()
        assert kinds(world.api.writes[before:]) == {"pods": 1, "resize": 1, "events": 1}


async def test_each_change_is_at_most_three_writes_with_custom_resources(
    autojump_clock: MockClock, world: World
) -> None:
    world.add("web")
    world.start(replace(EVERYTHING, zeropods=True))
    await trio.sleep(5)
    for change, first in ((world.sleep, 1), (world.wake, 1), (world.sleep, 0), (world.wake, 0), (world.sleep, 0)):
        before = len(world.api.writes)
        change()
        await trio.sleep(25)
        assert kinds(world.api.writes[before:]) == {
            "pods": 1, "resize": 1, "zeropods": 1, **({"events": 1} if first else {}),
        }  # fmt: skip
    # The events have counted on, and are told when they have waited long enough.
    before = len(world.api.writes)
    await trio.sleep(SERIES)
    assert kinds(world.api.writes[before:]) == {"events": 2}
    assert world.is_right()


async def test_what_changes_within_a_moment_is_written_once(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start(replace(EVERYTHING, zeropods=True))
    world.sleep()
    world.wake()
    await trio.sleep(20)
    before = len(world.api.writes)
    for _ in range(20):
        world.sleep()
        await trio.sleep(0.05)
        world.wake()
        await trio.sleep(0.2)
    await trio.sleep(20)
    # Each second, of 40 changes in 5, and the events that these leave room for.
    assert len(world.api.writes) - before <= 3 * 7
    assert read_pod(world.api.objects[world.path("web")]).containers[0].requests == REQUESTS


async def test_nothing_is_written_that_has_not_changed(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start()
    world.sleep()
    await world.until(world.is_right)
    before = len(world.api.writes)
    for _ in range(20):
        world.sleeps["web"] -= 1
        world.sleep()
        world.api.put(world.path("web"), world.api.objects[world.path("web")])
        await trio.sleep(30)
    assert len(world.api.writes) == before


async def test_a_manager_that_starts_anew_writes_nothing(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    first = world.start()
    world.sleep()
    world.wake()
    await world.until(world.is_right)
    first.cancel()
    before = len(world.api.writes)
    world.start()
    await trio.sleep(60)
    assert len(world.api.writes) == before


async def test_what_happened_without_a_manager_is_made_up_for(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    first = world.start()
    world.sleep()
    await world.until(world.is_right)
    first.cancel()
    for _ in range(5):
        world.wake()
        world.sleep()
    world.wake()
    began = world.events()[0]["firstTimestamp"]
    world.start()
    await world.until(world.is_right)
    assert {each["count"] for each in world.events()} == {6}
    assert world.events()[0]["firstTimestamp"] == began


async def test_pods_of_other_runtimes_are_left_alone(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.api.put(world.path("runc"), pod_body(name="runc"))
    world.start()
    world.sleep()
    await world.until(world.is_right)
    assert not any(asked.path.endswith("/runc") for asked in world.api.asked)


async def test_nothing_is_written_before_all_shims_were_heard(autojump_clock: MockClock, world: World) -> None:
    world.node.ready = False
    world.add("web")
    world.start()
    await trio.sleep(60)
    assert world.api.writes == []


async def test_the_original_is_written_down_before_a_request_falls(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.sleep()

    def rule(asked: Asked) -> Answer | None:
        if asked.path.endswith("/resize"):
            assert read_pod(world.api.objects[world.path("web")]).originals["cpu"] == {"main": "100m"}
        return None

    world.api.rule = rule
    world.start()
    await world.until(world.is_right)


async def test_a_request_does_not_fall_unless_its_original_could_be_written(
    autojump_clock: MockClock, world: World
) -> None:
    world.add("web")
    world.sleep()
    world.api.rule = lambda asked: failure(403, "Forbidden") if asked.is_write and "pods/web" in asked.path else None
    world.start()
    await trio.sleep(120)
    assert not any(asked.path.endswith("/resize") for asked in world.api.asked)
    assert {each["reason"] for each in world.events()} == {"Scaled down"}


async def test_a_person_and_the_manager_at_once(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start()
    await world.until(world.is_right)
    interfered: list[bool] = []

    def rule(asked: Asked) -> Answer | None:
        # A person's resize arrives between the manager's look and its write.
        if asked.path.endswith("/resize") and not interfered:
            interfered.append(True)
            changed = json.loads(json.dumps(world.api.objects[world.path("web")]))
            changed["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "300m"
            world.api.put(world.path("web"), changed)
        return None

    world.api.rule = rule
    world.sleep()
    await world.until(lambda: read_pod(world.api.objects[world.path("web")]).containers[0].requests == LOWEST, 10)
    assert read_pod(world.api.objects[world.path("web")]).originals["cpu"] == {"main": "300m"}
    world.wake()
    await world.until(
        lambda: read_pod(world.api.objects[world.path("web")]).containers[0].requests["cpu"] == "300m", 10
    )


async def test_a_refused_resize_is_told_and_tried_again(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start()
    await world.until(world.is_right)
    refusal = failure(422, "Invalid", "limits are too low")
    world.api.rule = lambda asked: refusal if asked.path.endswith("/resize") else None
    world.sleep()
    await trio.sleep(120)
    (refused,) = [each for each in world.events() if each["reason"] == "Resize refused"]
    assert "limits are too low" in refused["message"]
    assert refused["type"] == "Warning"
    assert read_pod(world.api.objects[world.path("web")]).labels == {"main": "SCALED_DOWN"}
    metrics = {each.name: each.samples for each in KubeCollector(world.managers[0]).collect()}
    (kept,) = metrics["zeropod_requests_kept"]
    assert kept.labels == {"container": "main", "pod": "web", "namespace": "default", "reason": "refused"}
    tries = [asked for asked in world.api.asked if asked.path.endswith("/resize")]
    assert 4 <= len(tries) <= 15
    world.api.rule = lambda asked: None
    await world.until(lambda: read_pod(world.api.objects[world.path("web")]).containers[0].requests == LOWEST, 31)
    await trio.sleep(1)
    assert world.managers[0].notices == []


Break = Callable[[FakeApi], Awaitable[None]]


async def away(api: FakeApi) -> None:
    api.unreachable = True
    await api.break_connections()


async def hanging(api: FakeApi) -> None:
    api.silent = True


def answering(answer: Answer) -> Break:
    """Every write is answered so."""

    async def broken(api: FakeApi) -> None:
        api.rule = lambda asked: answer if asked.is_write else None

    return broken


async def without_rights(api: FakeApi) -> None:
    api.rule = lambda asked: failure(403, "Forbidden")
    await api.break_connections()


async def expiring(api: FakeApi) -> None:
    api.unreachable = True
    await api.break_connections()
    api.bookmark()
    api.expire()


@pytest.mark.parametrize(
    "broken",
    [
        away,
        hanging,
        expiring,
        without_rights,
        answering(failure(409, "Conflict")),
        answering(failure(429, "TooManyRequests", retryAfterSeconds=120)),
        answering(failure(500, "InternalError")),
        answering(failure(403, "Forbidden")),
        answering(Answer(200, b"nonsense")),
    ],
)
async def test_all_is_right_within_a_minute_of_the_end_of_a_failure(
    autojump_clock: MockClock, world: World, broken: Break
) -> None:
    names = [f"web-{number}" for number in range(12)]
    for name in names:
        world.add(name)
    world.start()
    await world.until(world.is_right, 60)
    await broken(world.api)
    for step in range(12):
        for number, name in enumerate(names):
            if (number + step) % 3:
                world.sleep(name)
            else:
                world.wake(name)
        await trio.sleep(5)
    assert not world.is_right()
    world.api.unreachable = world.api.silent = False
    world.api.rule = lambda asked: None
    await world.until(world.is_right, 60)


async def test_a_pod_that_cannot_be_written_holds_up_no_other(autojump_clock: MockClock, world: World) -> None:
    for number in range(10):
        world.add(f"web-{number}")
    world.api.rule = lambda asked: failure(409, "Conflict") if "web-0" in asked.path else None
    world.start()
    await trio.sleep(60)
    for number in range(1, 10):
        world.sleep(f"web-{number}")
    await world.until(lambda: len(world.events("web-9")) == 1)
    del world.node.said["web-0"]
    await world.until(world.is_right)


async def test_a_pod_that_is_gone_ends_the_matter(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("web")
    world.start()
    await world.until(world.is_right)
    world.api.rule = lambda asked: failure(404, "NotFound") if asked.is_write else None
    world.sleep()
    await trio.sleep(10)
    world.api.remove(world.path("web"))
    await trio.sleep(1)
    before = len(world.api.asked)
    await trio.sleep(60)
    assert len(world.api.asked) == before
    assert "cannot update" not in caplog.text


async def test_a_pod_of_the_same_name_is_another_one(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start()
    world.sleep()
    await world.until(world.is_right)
    world.api.remove(world.path("web"))
    body = pod_body()
    body["metadata"]["uid"] = "another"
    world.api.put(world.path("web"), body)
    await trio.sleep(60)
    made = read_pod(world.api.objects[world.path("web")])
    assert (made.labels, made.containers[0].requests) == ({}, REQUESTS)


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (Options(labels=True), {"/api/v1/namespaces/default/pods/web"}),
        (Options(resize=True), {"/api/v1/namespaces/default/pods/web", "/api/v1/namespaces/default/pods/web/resize"}),
    ],
)
async def test_a_flag_writes_its_own_alone(
    autojump_clock: MockClock, world: World, options: Options, written: set[str]
) -> None:
    world.add("web")
    world.start(options)
    world.sleep()
    await trio.sleep(30)
    assert {asked.path for asked in world.api.writes} == written
    keys = {key for asked in world.api.writes for key in (asked.body or {})["metadata"]} - {"uid", "resourceVersion"}
    assert keys == ({"labels"} if options.labels else {"annotations"})


async def test_what_is_counted_of_writes_is_shown(autojump_clock: MockClock, world: World) -> None:
    world.add("web")
    world.start()
    world.sleep()
    await world.until(world.is_right)
    metrics = {each.name: each.samples for each in KubeCollector(world.managers[0]).collect()}
    writes = {(each.labels["kind"], each.labels["outcome"]): each.value for each in metrics["zeropod_api_writes"]}
    assert writes == {("metadata", "ok"): 1, ("resize", "ok"): 1, ("event", "ok"): 1}
    assert [each.value for each in metrics["zeropod_api_followed"]] == [1]


@pytest.mark.parametrize("state", [State.CHECKPOINTING, State.RESTORING])
async def test_what_is_on_its_way_is_waited_for(autojump_clock: MockClock, world: World, state: State) -> None:
    world.add("web", pod_body(container()))
    world.start(Options(labels=True, resize=True))
    await world.until(world.is_right)
    before = len(world.api.writes)
    world.say("web", status(state))
    await trio.sleep(30)
    assert len(world.api.writes) == before
