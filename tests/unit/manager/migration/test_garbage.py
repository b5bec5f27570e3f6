"""What nothing needs any more goes, by whichever manager is there, and by one of them."""

from dataclasses import replace

import pytest
import trio
from tests.unit.manager.kube.fake_api import FakeApi
from tests.unit.manager.migration.build import BEGUN, migration, migration_body, pod, pod_body, stamp
from tests.unit.manager.migration.world import MIGRATIONS, World
from trio.testing import MockClock

from zeropod.manager.kube.client import Client
from zeropod.manager.migration.garbage import KEPT, OTHERS, SPREAD, TARGETS, Garbage, due
from zeropod.manager.migration.store import Store


def test_each_waits_for_longer_than_those_that_have_more_to_do_with_it() -> None:
    found = migration(pod(), targetNode="node-2", targetPodUID="u")
    assert due(found, "node-1") == BEGUN + KEPT
    assert due(found, "node-2") == BEGUN + KEPT + TARGETS
    others = {due(found, f"other-{number}") for number in range(50)}
    assert min(others) >= BEGUN + KEPT + OTHERS
    assert max(others) < BEGUN + KEPT + OTHERS + SPREAD
    assert len(others) > 40
    later = replace(found, status={"lastUpdateTime": stamp(BEGUN + 100)})
    assert due(later, "node-1") == BEGUN + 100 + KEPT


@pytest.mark.parametrize(
    ("phase", "there", "goes"),
    [("Completed", "", True), ("Completed", "web-1", True), ("Running", "", True), ("Running", "web-1", False),
     ("Pending", "web-2", False)],
)  # fmt: skip
async def test_what_has_ended_long_ago_or_never_will(
    world: World, api: FakeApi, nursery: trio.Nursery, phase: str, there: str, goes: bool, autojump_clock: MockClock
) -> None:
    body = migration_body(pod(), targetPod="web-2", targetPodUID="uid-web-2", targetNode="node-2")
    body["status"] = {"containers": [{"name": "main", "condition": {"phase": phase}}]}
    api.put(f"{MIGRATIONS}/web-1", body)
    if there:
        world.put(pod_body(there))
    # Another one of that name has no part in it.
    world.put(pod_body("web-2" if there != "web-2" else "web-1", uid="another"))
    for node in ("node-1", "node-2", "node-3"):
        client = Client(api)
        store = Store(client)
        nursery.start_soon(store.followed.run)
        nursery.start_soon(Garbage(client, store, node, world.now).run)
    await trio.sleep(KEPT - 100)
    assert f"{MIGRATIONS}/web-1" in api.objects
    await trio.sleep(1000)
    assert (f"{MIGRATIONS}/web-1" not in api.objects) is goes
    deletes = [asked for asked in api.writes if asked.method == "DELETE"]
    assert len(deletes) == goes
