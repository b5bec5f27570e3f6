"""What the shim says about its containers on its second socket."""

import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf.message import Message
from tests.unit.lifecycle.said import said
from tests.unit.shim.fakes import World
from tests.unit.shim.states import reach
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod import paths as places
from zeropod.launch.flags import Flags
from zeropod.lifecycle.controller import Controller
from zeropod.lifecycle.machine import Event, State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import MemoryReport
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime import spec
from zeropod.runtime.memory.backend import Kind, Usage
from zeropod.shim.status import StatusService, describe, status_listener

FLAGS = Flags(namespace="k8s.io", id="web")


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # What the path of a socket has room for is less than pytest's directories take.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(places, "STATUS_SOCKETS", f"{directory}/s")
        yield f"{directory}/s"


@pytest.mark.parametrize("state", list(State))
async def test_every_state_has_its_name(world: World, state: State) -> None:
    reach(world.container.life, state)
    assert status_pb2.State.Name(describe(world.container).state) == state.name


async def test_a_container_is_described_with_its_pod(world: World) -> None:
    annotations = {
        spec.SANDBOX_NAMESPACE: "default",
        spec.SANDBOX_NAME: "web-0",
        spec.CONTAINER_NAME: "nginx",
        spec.SANDBOX_ID: "s1",
        spec.SANDBOX_UID: "u1",
    }
    for key, value in annotations.items():
        world.container.spec = world.container.spec.with_annotation(key, value)
    found = describe(world.container)
    assert (found.id, found.namespace, found.pod_namespace) == ("web", "k8s.io", "default")
    assert (found.pod, found.pod_uid, found.container, found.sandbox) == ("web-0", "u1", "nginx", "s1")
    assert found.since.ToNanoseconds() == world.container.life.since_ns


async def test_a_container_that_sleeps_has_no_pid(world: World, cgroup: Path) -> None:
    await world.container.create()
    (cgroup / "cgroup.procs").write_text(str(world.container.init.pid))
    reach(world.container.life, State.RUNNING)
    assert describe(world.container).pid == world.container.init.pid
    for event in (Event.QUIET, Event.FROZEN, Event.STANDBY_OVER, Event.DUMPED):
        world.container.life.happen(event)
    assert describe(world.container).pid == 0


async def test_times_are_in_milliseconds(world: World) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    world.container.controller = controller = Controller(world.container, "/proc/self/ns/net", never)  # type: ignore[arg-type]
    controller.metrics.slept(0.5, 1)
    controller.metrics.slept(0.125, 2)
    controller.metrics.woke(0.0625, 3, cold=True)
    controller.metrics.restore_errors = 1
    found = describe(world.container)
    assert (found.last_checkpoint_ms, found.last_restore_ms) == (125.0, 62.5)
    assert (found.checkpoints, found.restores, found.restore_errors) == (2, 1, 1)
    assert (found.last_checkpoint.ToNanoseconds(), found.last_restore.ToNanoseconds()) == (2, 3)


class Strategy:
    """As much of a way to sleep as is described."""

    why_kept = said("stays in STANDBY, since COLD would lose something")
    image_bytes = answered = 0

    def memory_report(self) -> MemoryReport:
        return MemoryReport(Kind.STORE, said("page store"), Usage(out=5, written=4, faults=3, brought_in=2), 1)


async def test_where_the_memory_of_one_in_standby_is(world: World) -> None:
    world.container.controller = controller = Controller(world.container, "", lambda *_: None)  # type: ignore[arg-type]
    controller.strategy = Strategy()  # type: ignore[assignment]  # has only what a status asks
    reach(world.container.life, State.STANDBY)
    found = describe(world.container)
    assert (found.memory_backend, found.memory_why) == ("store", "page store")
    assert (found.memory_out_bytes, found.memory_left_bytes, found.memory_written_bytes) == (5, 1, 4)
    assert (found.memory_faults, found.memory_brought_in_bytes) == (3, 2)
    assert found.why_kept == str(Strategy.why_kept)
    world.container.life.happen(Event.DATA)
    assert describe(world.container).why_kept == ""


async def test_one_that_has_not_slept_has_no_backend(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    assert describe(world.container).memory_backend == ""


async def test_one_or_all_containers_are_listed(world: World) -> None:
    service = StatusService(world.pod)
    requests = [status_pb2.ListRequest(id=name) for name in ("", "web", "other")]
    assert [len((await service.list(request)).containers) for request in requests] == [1, 1, 0]


def test_the_socket_is_roots_alone_and_goes_with_the_shim(sockets: str) -> None:
    with status_listener(FLAGS):
        (name,) = os.listdir(sockets)
        path = os.path.join(sockets, name)
        assert path.endswith(".sock")
        for place, mode in ((path, 0o660), (sockets, 0o750)):
            found = os.stat(place)
            assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, 0, places.MANAGER_GROUP)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    assert not os.path.exists(path)


def test_the_socket_of_a_dead_shim_is_replaced(sockets: str) -> None:
    with status_listener(FLAGS):
        (path,) = Path(sockets).iterdir()
    path.touch()
    with status_listener(FLAGS), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


# Every change, told as it happens


class Watcher:
    """Somebody who watches the shim, over a channel that takes one message at a time."""

    def __init__(self, world: World, nursery: trio.Nursery, **wanted: Any) -> None:
        self._send, self._receive = trio.open_memory_channel[status_pb2.Update](0)
        nursery.start_soon(StatusService(world.pod).watch, status_pb2.WatchRequest(**wanted), self._take)

    async def _take(self, update: Message) -> None:
        assert isinstance(update, status_pb2.Update)
        await self._send.send(update)

    async def next(self) -> status_pb2.Update:
        with trio.fail_after(1):
            return await self._receive.receive()

    async def quiet(self) -> bool:
        """Whether there is nothing to hear."""
        await wait_all_tasks_blocked()
        try:
            self._receive.receive_nowait()
        except trio.WouldBlock:
            return True
        return False


async def test_a_watcher_gets_everything_first_and_then_each_change(world: World, nursery: trio.Nursery) -> None:
    watcher = Watcher(world, nursery)
    first = await watcher.next()
    assert (first.snapshot, [entry.id for entry in first.containers]) == (True, ["web"])
    assert await watcher.quiet()
    reach(world.container.life, State.RUNNING)
    second = await watcher.next()
    assert (second.snapshot, second.after) == (False, first.sequence)
    assert [entry.state for entry in second.containers] == [status_pb2.RUNNING]
    world.container.life.explanation = said("exec 7 is running")
    assert [entry.why for entry in (await watcher.next()).containers] == ["exec 7 is running"]
    world.container.life.explanation = said("exec 7 is running")
    assert await watcher.quiet(), "nothing has changed"


async def test_who_is_slow_gets_the_newest_state_and_is_told_that_it_missed_some(
    world: World, nursery: trio.Nursery
) -> None:
    watcher = Watcher(world, nursery)
    first = await watcher.next()
    for event in (Event.START, Event.QUIET, Event.FROZEN):
        world.container.life.happen(event)
        await wait_all_tasks_blocked()
    one, other = await watcher.next(), await watcher.next()
    assert (one.after, other.after) == (first.sequence, one.sequence)
    assert [entry.state for entry in other.containers] == [status_pb2.STANDBY]
    assert await watcher.quiet()


async def test_the_steps_of_a_sleep_are_one_update_to_who_has_them_gathered(
    autojump_clock: MockClock, world: World, nursery: trio.Nursery
) -> None:
    watcher = Watcher(world, nursery, gather_milliseconds=300)
    first = await watcher.next()
    for event in (Event.START, Event.QUIET, Event.FROZEN):
        world.container.life.happen(event)
        await trio.sleep(0.05)
    update = await watcher.next()
    assert (update.after, [entry.state for entry in update.containers]) == (first.sequence, [status_pb2.STANDBY])
    assert await watcher.quiet()


async def test_reasons_are_told_to_who_asks_for_them(world: World, nursery: trio.Nursery) -> None:
    service = StatusService(world.pod)
    answer = await service.why(status_pb2.WhyRequest(id="web"))
    with_reasons = (await Watcher(world, nursery, reasons=True).next()).containers[0]
    assert list(with_reasons.reasons) == list(answer.reasons) != []
    assert not (await Watcher(world, nursery).next()).containers[0].reasons


async def test_a_container_that_is_gone_is_told_once(world: World, nursery: trio.Nursery) -> None:
    watcher = Watcher(world, nursery)
    await watcher.next()
    world.pod.remove(world.container)
    update = await watcher.next()
    assert (list(update.removed), list(update.containers)) == (["web"], [])
    world.pod.add(world.container)
    update = await watcher.next()
    assert (list(update.removed), [entry.id for entry in update.containers]) == ([], ["web"])


async def test_what_a_container_that_is_gone_does_is_not_told(world: World, nursery: trio.Nursery) -> None:
    watcher = Watcher(world, nursery)
    await watcher.next()
    world.pod.remove(world.container)
    await watcher.next()
    reach(world.container.life, State.STOPPED)
    assert await watcher.quiet()


# Asked for


async def refused(call: Awaitable[object]) -> tuple[Code, str]:
    with pytest.raises(RpcError) as raised:
        await call
    return raised.value.code, raised.value.message


async def test_a_container_that_is_not_here_is_not_found(world: World) -> None:
    service = StatusService(world.pod)
    for call in (
        service.sleep(status_pb2.SleepRequest(id="other")),
        service.wake(status_pb2.WakeRequest(id="other")),
        service.why(status_pb2.WhyRequest(id="other")),
    ):
        assert (await refused(call))[0] == Code.NOT_FOUND


async def test_a_container_that_never_sleeps_is_not_put_to_sleep_and_says_why(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    world.container.life.explanation = Reason.HOST_NETWORK.because()
    code, words = await refused(StatusService(world.pod).sleep(status_pb2.SleepRequest(id="web")))
    assert (code, words) == (Code.FAILED_PRECONDITION, "cannot put web to sleep: it uses the host's network")


async def test_a_wake_waits_until_it_is_awake(world: World, nursery: trio.Nursery) -> None:
    life, done = world.container.life, trio.Event()
    reach(life, State.COLD)

    async def wake() -> None:
        status = await StatusService(world.pod).wake(status_pb2.WakeRequest(id="web"))
        assert status.state == status_pb2.RUNNING
        done.set()

    nursery.start_soon(wake)
    await wait_all_tasks_blocked()
    assert life.wake_wanted.is_set()
    life.happen(Event.WANTED)
    await wait_all_tasks_blocked()
    assert not done.is_set()
    life.happen(Event.RESTORED)
    with trio.fail_after(1):
        await done.wait()


async def test_who_is_dead_is_not_woken(world: World) -> None:
    reach(world.container.life, State.STOPPED)
    assert (await refused(StatusService(world.pod).wake(status_pb2.WakeRequest(id="web"))))[0] == Code.NOT_FOUND


async def test_why_has_the_words_and_what_to_do(world: World) -> None:
    world.container.life.explanation = Reason.HOST_NETWORK.because()
    answer = await StatusService(world.pod).why(status_pb2.WhyRequest(id="web"))
    assert answer.status.id == "web"
    assert [(reason.kind, reason.text) for reason in answer.reasons] == [("setting", "It uses the host's network.")]
    assert "hostNetwork" in answer.reasons[0].remedy
