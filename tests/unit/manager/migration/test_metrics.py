"""What Prometheus is told: phases of what leaves this node, bytes, seconds, refusals."""

from typing import Any, cast

import trio
from prometheus_client import generate_latest
from prometheus_client.registry import CollectorRegistry
from tests.unit.manager.kube.fake_api import FakeApi
from tests.unit.manager.migration.build import migration_body, pod
from tests.unit.manager.migration.test_flow import finished
from tests.unit.manager.migration.world import MIGRATIONS, World
from trio.testing import MockClock

from zeropod.manager.migration.metrics import MigrationCollector


class Transfers:
    def __init__(self) -> None:
        self.bytes = {"sent": 7, "received": 0}
        self.refused = 2


async def test_what_is_told(world: World, api: FakeApi, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    target = world.manager("node-2")
    for name, node, phase in (("web-1", "node-1", "Running"), ("a", "node-2", "Failed"), ("b", "node-2", "Failed")):
        claim: dict[str, Any] = {}
        if name == "web-1":
            claim = {"targetPod": "web-2", "targetPodUID": "uid-web-2", "targetNode": "node-2"}
        body = migration_body(pod(name, node=node), **claim)
        said = {"name": "main", "condition": {"phase": phase}, "pausedAt": "2026-01-01T00:00:00Z"}
        body["status"] = {"containers": [said]}
        api.put(f"{MIGRATIONS}/{name}", body)
    await trio.sleep(1)
    done = finished("Completed")
    done.restored_at.FromJsonString("2026-01-01T00:00:00.250Z")
    await target.target.finish(done)
    registry = CollectorRegistry()
    registry.register(MigrationCollector(target.store, target.target, cast(Any, Transfers()), "node-2"))
    lines = generate_latest(registry).decode().splitlines()
    assert 'zeropod_migrations{phase="Failed"} 2.0' in lines
    assert 'zeropod_migrations{phase="Running"} 0.0' in lines
    assert 'zeropod_migration_bytes_total{direction="sent"} 7.0' in lines
    assert "zeropod_migration_seconds_count 1.0" in lines
    assert "zeropod_migration_seconds_sum 0.25" in lines
    assert "zeropod_migration_refusals_total 2.0" in lines
