"""Managers of several nodes at one API server in memory, with shims that do as a test wants."""

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio
from tests.unit.manager.kube.fake_api import FakeApi

from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.events import Reporter
from zeropod.manager.kube.follow import Follower
from zeropod.manager.migration.leaving import Leaving
from zeropod.manager.migration.pods import Pod, read_pod
from zeropod.manager.migration.resource import Migration
from zeropod.manager.migration.settings import Settings
from zeropod.manager.migration.source import Source
from zeropod.manager.migration.store import Store
from zeropod.manager.migration.target import Target
from zeropod.manager.migration.telling import Teller
from zeropod.rpc.messages.node_pb2 import EvacRequest, Moving, Needs, PrepareEvacRequest, RestoreRequest
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.rpc.status import RpcError

_T = TypeVar("_T")

MIGRATIONS = "/apis/runtime.zeropod.ctrox.dev/v1/namespaces/default/migrations"
HERE = Needs(architecture="x86_64", kernel="6.18", criu="4.2", page_size=4096)


class Shims:
    def __init__(self) -> None:
        self.pods: set[str] = set()
        self.asked: list[str] = []
        self.refusal: RpcError | None = None
        self._changed = trio.Event()
        self.ready = True

    def by_pod(self) -> dict[str, list[ContainerStatus]]:
        return {uid: [ContainerStatus(id="id-main", container="main", pod_uid=uid)] for uid in self.pods}

    def has(self, *uids: str) -> None:
        self.pods |= set(uids)
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        await self._changed.wait()

    async def leave(self, id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(id)
        if self.refusal:
            raise self.refusal


class Manager:
    """That of one node."""

    def __init__(self, api: FakeApi, node: str, now: Callable[[], float], connect: str = "") -> None:
        self.settings = Settings(node, f"10.0.0.{node[-1]}", claim_timeout=10, ready_timeout=300, servers_timeout=10)
        self.client, self.shims, self.connected = Client(api), Shims(), connect
        self.store = Store(self.client)
        # The server in memory knows no field selectors.
        self.pods: Follower[Pod] = Follower(self.client, path_of("v1", "pods"), lambda body: _on(body, node))
        teller = Teller(self.client, Reporter(node, f"manager-{node}"), now)
        self.leaving = Leaving(self.client, self.store, self.pods, self.shims, teller, self.settings, now)
        self.source = Source(self.client, self.store, self.pods, self.leaving, self.settings, now)
        self.target = Target(self.store, self.pods, teller, self.settings, self._connect, now)

    async def _connect(self, migration: Migration) -> str:
        await trio.lowlevel.checkpoint()
        return self.connected

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for task in (self.store.followed.run, self.pods.run, self.leaving.run, self.target.run):
                nursery.start_soon(task)


def _on(body: Object, node: str) -> Pod:
    pod = read_pod(body)
    return pod if pod.node == node else Pod(pod.namespace, pod.name, "")


class World:
    def __init__(self, api: FakeApi, nursery: trio.Nursery) -> None:
        self.api, self._nursery = api, nursery
        begun = trio.current_time()
        self._begun = float(int(time.time()))
        self.now: Callable[[], float] = lambda: self._begun + trio.current_time() - begun

    def manager(self, node: str, connect: str = "") -> Manager:
        made = Manager(self.api, node, self.now, connect)
        self._nursery.start_soon(made.run)
        return made

    def put(self, body: Object) -> None:
        self.api.put(f"/api/v1/namespaces/default/pods/{body['metadata']['name']}", body)

    def remove(self, name: str) -> None:
        self.api.remove(f"/api/v1/namespaces/default/pods/{name}")

    def owner(self, kind: str, **spec: object) -> None:
        body = {"metadata": {"uid": f"uid-{kind}", "namespace": "default", "name": "web"}, "spec": spec}
        self.api.put(f"/apis/apps/v1/namespaces/default/{kind.lower()}s/web", body)

    def migration(self, name: str = "web-1") -> Object:
        return self.api.objects.get(f"{MIGRATIONS}/{name}", {})

    def phase(self, name: str = "web-1") -> str:
        return str((self.migration(name).get("status") or {}).get("phase", ""))

    def events(self) -> list[tuple[str, str]]:
        return sorted(
            (each["involvedObject"]["name"], each["reason"])
            for path, each in self.api.objects.items()
            if "/events/" in path
        )


def moving(pod: str, container: str = "main", uid: str = "") -> Moving:
    return Moving(
        namespace="k8s.io", id=f"id-{container}", pod_namespace="default", pod=pod, pod_uid=uid or f"uid-{pod}",
        container=container,
    )  # fmt: skip


def leaves(
    pod: str = "web-1",
    container: str = "main",
    uid: str = "",
    *,
    asleep: bool = True,
    live: bool = False,
    offline: bool = True,
    obstacle: str = "",
    needs: Needs = HERE,
) -> PrepareEvacRequest:
    about = moving(pod, container, uid)
    return PrepareEvacRequest(
        container=about, asleep=asleep, live=live, offline=offline, obstacle=obstacle, needs=needs
    )


def left(pod: str = "web-1", container: str = "main", uid: str = "") -> EvacRequest:
    about = moving(pod, container, uid)
    return EvacRequest(container=about, key=f"{about.pod_uid}.{container}", image_bytes=5, stored_bytes=7)


def comes(pod: str = "web-2", container: str = "main", has: Needs = HERE, uid: str = "") -> RestoreRequest:
    return RestoreRequest(container=moving(pod, container, uid), has=has, address="10.1.0.9")


class Later(Generic[_T]):
    """What an answer is when it comes."""

    def __init__(self, nursery: trio.Nursery, call: Awaitable[_T]) -> None:
        self._answers: list[_T] = []
        self._done = trio.Event()
        nursery.start_soon(self._run, call)

    async def _run(self, call: Awaitable[_T]) -> None:
        self._answers.append(await call)
        self._done.set()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    async def wait(self) -> _T:
        with trio.fail_after(1000):
            await self._done.wait()
        return self._answers[0]
