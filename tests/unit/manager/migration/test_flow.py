"""Two managers at one API server: a pod leaves one node and comes to the other, or stays, with the reason."""

from typing import Any

import pytest
import trio
from google.protobuf.timestamp_pb2 import Timestamp
from tests.unit.manager.kube.fake_api import status as failure
from tests.unit.manager.migration.build import BEGUN, migration_body, pod, pod_body
from tests.unit.manager.migration.world import HERE, MIGRATIONS, Later, Manager, World, comes, leaves, left, moving
from trio.testing import MockClock

from zeropod.rpc.messages.node_pb2 import (
    GIVEN,
    PARKED,
    WITHDRAW,
    FinishRestoreRequest,
    Needs,
    PrepareEvacRequest,
    PrepareEvacResponse,
    RestoreResponse,
)
from zeropod.rpc.status import Code, RpcError


@pytest.fixture
def source(world: World) -> Manager:
    made = world.manager("node-1")
    made.shims.has("uid-web-1", "uid-web-0")
    return made


@pytest.fixture
def target(world: World) -> Manager:
    return world.manager("node-2")


def deleted(world: World, **more: Any) -> None:
    world.put(pod_body(deleted=world.now(), **{"offline": "main", **more}))


def replaced(world: World, name: str = "web-2", **more: Any) -> None:
    fields = {"phase": "Pending", "created": world.now(), "node": "node-2", "offline": "main", **more}
    world.put(pod_body(name, **fields))


def finished(
    phase: str, why: str = "", *, is_final: bool = False, to_come: int = 0, pod: str = "web-2"
) -> FinishRestoreRequest:
    return FinishRestoreRequest(
        container=moving(pod),
        migration="default/web-1",
        phase=phase,
        why=why,
        restored_at=Timestamp(seconds=int(BEGUN) + 3),
        bytes_received=100,
        pages_to_come=to_come,
        is_final=is_final,
    )


async def ready(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, grace: float = 30
) -> Later[RestoreResponse]:
    """Both sides until the source may freeze."""
    world.owner("ReplicaSet", replicas=1)
    deleted(world, grace=grace)
    asked = Later(nursery, source.source.prepare(leaves()))
    await trio.sleep(0.5)
    replaced(world)
    waits = Later(nursery, target.target.restore(comes()))
    answer = await asked.wait()
    assert answer.go, answer.why
    return waits


async def test_a_pod_moves_to_its_replacement(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world)
    asked = Later(nursery, source.source.prepare(leaves()))
    await trio.sleep(0.5)
    assert not asked.is_done
    assert world.migration()["metadata"]["ownerReferences"][0]["uid"] == "uid-web-1"
    replaced(world)
    await trio.sleep(0.5)
    # It is claimed, and not ready: the source runs on.
    assert world.migration()["spec"]["targetNode"] == "node-2"
    assert not asked.is_done
    waits = Later(nursery, target.target.restore(comes()))
    answer = await asked.wait()
    assert (answer.go, answer.key, answer.park) == (True, "uid-web-1.main", False)
    assert 19 < answer.deadline.ToSeconds() - world.now() < 30
    assert world.migration()["spec"]["targetPodIP"] == "10.1.0.9"
    assert not waits.is_done
    out = Later(nursery, source.source.evacuate(left()))
    found = await waits.wait()
    assert (found.found, found.migration, found.key, found.live) == (True, "default/web-1", "uid-web-1.main", False)
    assert not out.is_done
    await target.target.finish(finished("Completed", to_come=8))
    assert ((await out.wait()).outcome, (await out.wait()).address) == (GIVEN, "10.1.0.9")
    assert world.phase() == "Completed"
    said = world.migration()["status"]["containers"][0]
    assert (said["pagesToCome"], said["imageBytes"], said["storedBytes"]) == (8, 5, 7)
    await target.target.finish(finished("Completed", is_final=True))
    assert world.migration()["status"]["containers"][0]["pagesToCome"] == 0
    assert world.events() == [("web-1", "Migrated"), ("web-1", "Migrating"), ("web-2", "Migrated")]


async def test_two_reports_at_once_are_one_outcome(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    Later(nursery, source.source.evacuate(left()))
    await waits.wait()
    async with trio.open_nursery() as both:
        both.start_soon(target.target.finish, finished("Completed", to_come=3))
        both.start_soon(target.target.finish, finished("Completed", is_final=True))
    assert target.target.count == 1
    said = world.migration()["status"]["containers"][0]
    # Whichever was written first, the last word is the last one's.
    assert (said["condition"]["phase"], said["pagesToCome"]) == ("Completed", 0)
    await target.target.finish(finished("Completed", to_come=9))
    await trio.sleep(10)
    await target.target.finish(finished("Completed", to_come=9))
    assert world.migration()["status"]["containers"][0]["pagesToCome"] == 0


async def test_where_connections_go_is_found_out_if_its_shim_does_not_know(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    body = world.migration()
    body["spec"]["targetPodIP"] = ""
    world.api.put(f"{MIGRATIONS}/web-1", body)
    out = Later(nursery, source.source.evacuate(left()))
    await waits.wait()
    await target.target.finish(finished("Completed"))
    assert (await out.wait()).address == "10.1.0.7"


async def test_few_writes(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    out = Later(nursery, source.source.evacuate(left()))
    await waits.wait()
    for pages in (8, 7, 6, 5):
        await target.target.finish(finished("Completed", to_come=pages))
    await out.wait()
    await target.target.finish(finished("Completed", is_final=True))
    await trio.sleep(1)
    writes = [(each.method, each.path.removeprefix(MIGRATIONS)) for each in world.api.writes if MIGRATIONS in each.path]
    # It is made, what it needs, a claim, ready; it is out, it runs, it has all.
    assert writes == [("POST", ""), *[("PATCH", "/web-1")] * 3, *[("PATCH", "/web-1/status")] * 3]


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_scale_down_costs_nothing_and_waits_for_nothing(
    world: World, source: Manager, replicas: int, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=replicas)
    for number in range(replicas):
        world.put(pod_body(f"stays-{number}", offline="main"))
    deleted(world)
    begun = trio.current_time()
    answer = await source.source.prepare(leaves())
    assert trio.current_time() - begun < 0.1
    assert (answer.go, "its ReplicaSet wants" in answer.why) == (False, True)
    assert not world.migration()
    assert not world.api.writes


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (leaves(asleep=False), "it is awake"),
        (leaves(offline=False), "it may not move"),
        (leaves(obstacle="its volume is the node's"), "its volume is the node's"),
        (leaves(container="other"), "does not name it"),
    ],
)
async def test_what_may_not_move_is_told_so_at_once(
    world: World, source: Manager, asked: PrepareEvacRequest, why: str, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world)
    answer = await source.source.prepare(asked)
    assert (answer.go, why in answer.why) == (False, True)
    assert trio.current_time() < 1
    if "name" not in why:
        assert world.phase() == "Failed"
        assert why in world.migration()["status"]["reason"]
        assert world.events() == [("web-1", "Migration failed")]


async def test_without_a_replacement_it_is_given_up_for_good(
    world: World, source: Manager, target: Manager, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world)
    begun = trio.current_time()
    answer = await source.source.prepare(leaves())
    assert (answer.go, "no replacement has come" in answer.why) == (False, True)
    assert 9 < trio.current_time() - begun < 11
    assert world.phase() == "Unclaimed"
    replaced(world)
    assert not (await target.target.restore(comes())).found
    assert "targetPod" not in world.migration()["spec"]


async def test_a_short_grace_period_leaves_time_for_a_clean_end(
    world: World, source: Manager, target: Manager, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world, grace=5)
    replaced(world)
    answer = await source.source.prepare(leaves())
    # Claimed, but never ready.
    assert (answer.go, "not ready in time" in answer.why) == (False, True)
    assert 2.4 < trio.current_time() < 4.6


async def test_what_the_target_lacks_is_said_before_anything_freezes(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world)
    asked = Later(nursery, source.source.prepare(leaves()))
    replaced(world)
    await trio.sleep(0.5)
    answer = await target.target.restore(comes(has=Needs(architecture="aarch64")))
    assert (answer.found, "aarch64" in answer.why) == (False, True)
    assert not (await asked.wait()).go
    assert world.phase() == "Failed"
    await trio.sleep(1)
    assert world.events() == [("web-1", "Migration failed"), ("web-2", "Migration failed")]


HOST = {"data": {"hostPath": {"path": "/srv"}}, "cache": {"emptyDir": {}}}


@pytest.mark.parametrize(("read_only", "stays"), [(False, True), (True, False)])
async def test_what_is_the_node_s_does_not_move(
    world: World,
    source: Manager,
    target: Manager,
    nursery: trio.Nursery,
    read_only: bool,
    stays: bool,
    autojump_clock: MockClock,
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world, volumes=HOST, read_only=read_only)
    asked = Later(nursery, source.source.prepare(leaves()))
    replaced(world, volumes=HOST, read_only=read_only)
    await trio.sleep(0.5)
    waits = Later(nursery, target.target.restore(comes()))
    answer = await asked.wait()
    assert answer.go is not stays
    if stays:
        assert (await waits.wait()).why == answer.why == "it writes to /srv of its node, which does not move"


async def test_what_is_left_behind_is_told(world: World, source: Manager, autojump_clock: MockClock) -> None:
    world.owner("StatefulSet", replicas=1)
    deleted(world, name="web-0", owner="StatefulSet", volumes=HOST)
    assert (await source.source.prepare(leaves("web-0"))).go
    (event,) = [body for path, body in world.api.objects.items() if "/events/" in path]
    assert event["message"].endswith("what is in cache (emptyDir) stays behind")


async def test_a_source_that_is_not_whom_it_says_stays_as_it_is(
    world: World, source: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    target = world.manager("node-2", connect="it is node-3")
    world.owner("ReplicaSet", replicas=1)
    deleted(world)
    asked = Later(nursery, source.source.prepare(leaves()))
    replaced(world)
    await trio.sleep(0.5)
    assert (await target.target.restore(comes())).why == "it is node-3"
    assert (await asked.wait()).why == "it is node-3"


async def test_of_two_replacements_one_takes_it(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    third = world.manager("node-3")
    await trio.sleep(1)
    world.owner("ReplicaSet", replicas=2)
    deleted(world)
    await trio.sleep(1)
    replaced(world, "web-2")
    replaced(world, "web-3", node="node-3")
    first, second = Later(nursery, target.target.restore(comes())), Later(nursery, third.target.restore(comes("web-3")))
    await source.source.prepare(leaves())
    await source.source.prepare(leaves())
    Later(nursery, source.source.evacuate(left()))
    assert sorted([(await first.wait()).found, (await second.wait()).found]) == [False, True]


async def test_a_claim_of_what_is_no_replacement_is_refused(
    world: World, source: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world)
    asked = Later(nursery, source.source.prepare(leaves()))
    await trio.sleep(0.5)
    world.put(pod_body("thief", node="node-2", phase="Pending", revision="r2"))
    body = world.migration()
    body["spec"] |= {"targetPod": "thief", "targetPodUID": "uid-thief", "targetNode": "node-2"}
    world.api.put(f"{MIGRATIONS}/web-1", body)
    answer = await asked.wait()
    assert (answer.go, "does not replace it" in answer.why) == (False, True)


@pytest.mark.parametrize("how", ["failed", "silent", "deleted", "gone"])
async def test_until_it_was_taken_it_can_come_back(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, how: str, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    out = Later(nursery, source.source.evacuate(left()))
    await waits.wait()
    match how:
        case "failed":
            await target.target.finish(finished("Failed", "CRIU says no"))
        case "deleted":
            world.api.remove(f"{MIGRATIONS}/web-1")
        case "gone":
            world.remove("web-2")
    answer = await out.wait()
    assert answer.outcome == WITHDRAW
    expected = {"failed": "CRIU says no", "silent": "in time", "deleted": "deleted", "gone": "has ended, too"}[how]
    assert expected in answer.why
    # The grace period is 30 s: 9 are left for a clean end.
    assert trio.current_time() < 22


@pytest.mark.parametrize(
    ("problem", "why", "seconds"), [("", "not out within 100 s", 100), ("it is away", "it is away", 10)]
)
async def test_a_source_is_waited_for_as_long_as_its_node_is_there(
    world: World,
    source: Manager,
    target: Manager,
    nursery: trio.Nursery,
    problem: str,
    why: str,
    seconds: float,
    autojump_clock: MockClock,
) -> None:
    waits = await ready(world, source, target, nursery, grace=300)
    begun, target.connected = trio.current_time(), problem
    answer = await waits.wait()
    assert (answer.found, why in answer.why) == (False, True)
    assert trio.current_time() - begun == pytest.approx(seconds, abs=2)
    assert (await source.source.evacuate(left())).outcome == WITHDRAW


async def test_a_source_whose_memory_takes_too_long(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    begun = trio.current_time()
    answer = await waits.wait()
    # Nine of its 30 seconds are for a clean end.
    assert (answer.found, "grace period" in answer.why) == (False, True)
    assert 19 < trio.current_time() - begun < 22
    assert (await source.source.evacuate(left())).outcome == WITHDRAW


async def test_a_source_whose_memory_takes_long(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    await trio.sleep(15)
    Later(nursery, source.source.evacuate(left()))
    assert (await waits.wait()).found


async def test_a_stateful_set_s_memory_waits_for_the_pod_of_its_name(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.owner("StatefulSet", replicas=1)
    old = {"owner": "StatefulSet", "uid": "uid-web-0"}
    deleted(world, name="web-0", **old)
    answer = await source.source.prepare(leaves("web-0"))
    assert (answer.go, answer.park) == (True, True)
    assert (await source.source.evacuate(left("web-0"))).outcome == PARKED
    world.remove("web-0")
    await trio.sleep(20)
    assert world.phase("web-0") == "Running"
    replaced(world, "web-0", owner="StatefulSet", uid="new")
    found = await target.target.restore(comes("web-0", uid="new"))
    assert (found.found, found.key) == (True, "uid-web-0.main")
    owners = [each["uid"] for each in world.migration("web-0")["metadata"]["ownerReferences"]]
    assert owners == ["uid-StatefulSet", "new"]


async def test_nothing_comes_back_that_is_older_than_what_has_begun(
    world: World, source: Manager, target: Manager, autojump_clock: MockClock
) -> None:
    world.owner("StatefulSet", replicas=1)
    body = migration_body(pod("web-0", uid="old", owner="StatefulSet"), parks=True)
    body["status"] = {"containers": [{"name": "main", "condition": {"phase": "Running"}}]}
    world.api.put(f"{MIGRATIONS}/web-0", body)
    world.put(pod_body("web-0", uid="new", owner="StatefulSet", node="node-2"))
    await trio.sleep(1)
    assert world.phase("web-0") == "Unclaimed"


async def test_what_waits_for_a_pod_that_never_comes_ends(
    world: World, source: Manager, autojump_clock: MockClock
) -> None:
    world.owner("StatefulSet", replicas=1)
    deleted(world, name="web-0", owner="StatefulSet")
    await source.source.prepare(leaves("web-0"))
    await source.source.evacuate(left("web-0"))
    world.remove("web-0")
    await trio.sleep(290)
    assert world.phase("web-0") == "Running"
    await trio.sleep(40)
    assert world.phase("web-0") == "Unclaimed"


async def test_the_last_move_of_a_name_makes_room_for_the_next(
    world: World, source: Manager, autojump_clock: MockClock
) -> None:
    world.owner("StatefulSet", replicas=1)
    body = migration_body(pod("web-0", uid="older", owner="StatefulSet"), parks=True)
    ended = {"name": "main", "condition": {"phase": "Completed"}}
    for said, answers in (({**ended, "pagesToCome": 4}, False), (ended, True)):
        body["status"] = {"containers": [said]}
        world.api.put(f"{MIGRATIONS}/web-0", body)
        deleted(world, name="web-0", owner="StatefulSet", uid=f"uid-{answers}")
        await trio.sleep(0.5)
        answer = await source.source.prepare(leaves("web-0", uid=f"uid-{answers}"))
        assert answer.go is answers, answer.why
    assert world.migration("web-0")["spec"]["sourcePodUID"] == "uid-True"


async def test_a_manager_that_is_started_anew_goes_on(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    again = world.manager("node-1")
    again.shims.has("uid-web-1")
    answer = await again.source.prepare(leaves())
    assert answer.go, answer.why
    out = Later(nursery, again.source.evacuate(left()))
    assert (await waits.wait()).found
    await target.target.finish(finished("Completed"))
    assert (await out.wait()).outcome == GIVEN


async def test_an_api_server_that_is_away_for_a_moment(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    await trio.sleep(1)
    world.api.rule = lambda asked: failure(500, "InternalError") if asked.method == "POST" else None
    deleted(world)
    asked = Later(nursery, source.source.prepare(leaves()))
    await trio.sleep(2)
    assert not asked.is_done
    world.api.rule = lambda asked: None
    replaced(world)
    await trio.sleep(3)
    Later(nursery, target.target.restore(comes()))
    assert (await asked.wait()).go


async def test_a_namespace_that_goes_away(world: World, source: Manager, autojump_clock: MockClock) -> None:
    world.owner("ReplicaSet", replicas=1)
    world.api.rule = lambda asked: (
        failure(403, "Forbidden", "it is being terminated") if asked.method == "POST" else None
    )
    deleted(world)
    answer = await source.source.prepare(leaves())
    assert (answer.go, "being terminated" in answer.why) == (False, True)
    assert trio.current_time() < 1


async def test_a_container_that_ends_while_its_pod_stays(
    world: World, source: Manager, autojump_clock: MockClock
) -> None:
    world.put(pod_body(offline="main"))
    begun = trio.current_time()
    answer = await source.source.prepare(leaves())
    assert answer == PrepareEvacResponse(why="its pod is not being deleted")
    assert trio.current_time() == begun


async def test_a_container_that_never_leaves_ends_with_its_pod(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    deleted(world)
    replaced(world)
    await trio.sleep(0.5)
    waits = Later(nursery, target.target.restore(comes()))
    await trio.sleep(3)
    assert not waits.is_done
    world.remove("web-1")
    answer = await waits.wait()
    assert (answer.found, "ended before it could move" in answer.why) == (False, True)
    assert trio.current_time() < 4


async def test_where_there_is_nothing_to_come_back_from_nothing_waits(
    world: World, target: Manager, autojump_clock: MockClock
) -> None:
    replaced(world)
    await trio.sleep(1)
    begun = trio.current_time()
    assert await target.target.restore(comes()) == RestoreResponse()
    assert trio.current_time() == begun


async def test_a_container_that_is_created_again_starts_as_usual(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waits = await ready(world, source, target, nursery)
    Later(nursery, source.source.evacuate(left()))
    await waits.wait()
    await target.target.finish(finished("Completed", is_final=True))
    assert await target.target.restore(comes()) == RestoreResponse()


@pytest.mark.parametrize("refusal", [None, RpcError(Code.FAILED_PRECONDITION, "it may not")])
async def test_what_a_person_asks_for_by_name(
    world: World, source: Manager, refusal: RpcError | None, autojump_clock: MockClock
) -> None:
    source.shims.refusal = refusal
    world.put(pod_body("web-1"))
    world.api.put(f"{MIGRATIONS}/web-1", migration_body(pod("web-1"), by_name=True))
    await trio.sleep(1)
    assert source.shims.asked == ["id-main"]
    assert world.phase() == ("Failed" if refusal else "Pending")
    if refusal:
        assert "it may not" in world.migration()["status"]["reason"]


async def test_a_manager_tells_where_it_is_now(world: World, source: Manager, autojump_clock: MockClock) -> None:
    body = migration_body(pod("web-0", owner="StatefulSet"), parks=True)
    body["spec"]["containers"][0]["imageServer"]["host"] = "10.0.0.77"
    body["status"] = {"containers": [{"name": "main", "condition": {"phase": "Running"}}]}
    world.api.put(f"{MIGRATIONS}/web-0", body)
    await trio.sleep(1)
    assert world.migration("web-0")["spec"]["containers"][0]["imageServer"] == {"host": "10.0.0.1", "port": 8090}


async def test_two_containers_each_as_it_is(
    world: World, source: Manager, target: Manager, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.owner("ReplicaSet", replicas=1)
    both: dict[str, Any] = {"containers": ("a", "b"), "offline": "a,b", "live": "b"}
    deleted(world, **both)
    replaced(world, **both)
    await trio.sleep(0.5)
    first = Later(nursery, source.source.prepare(leaves(container="a")))
    second = Later(nursery, source.source.prepare(leaves(container="b", asleep=False, live=True)))
    asleep = Later(nursery, target.target.restore(comes(container="a")))
    assert (await first.wait()).go
    await trio.sleep(1)
    # The kubelet creates one after the other.
    assert not second.is_done
    Later(nursery, source.source.evacuate(left(container="a")))
    assert ((await asleep.wait()).found, (await asleep.wait()).live) == (True, False)
    awake = Later(nursery, target.target.restore(comes(container="b")))
    assert (await second.wait()).go
    Later(nursery, source.source.evacuate(left(container="b")))
    assert ((await awake.wait()).found, (await awake.wait()).live) == (True, True)
    assert HERE.architecture == world.migration()["spec"]["containers"][1]["needs"]["architecture"]
