"""The task service between containerd's calls and the containers."""

import pytest
import trio
from tests.unit.shim.fakes import Events
from trio.testing import wait_all_tasks_blocked

from zeropod.rpc.messages import task_pb2
from zeropod.rpc.server import Handler
from zeropod.rpc.status import RpcError
from zeropod.shim.pod import Pod
from zeropod.shim.service import NAMES, TaskService


async def test_the_shutdown_can_wait_for_calls_that_are_under_way_but_for_those_that_only_wait(
    nursery: trio.Nursery,
) -> None:
    service = TaskService(Pod("k8s.io", nursery, Events()))
    over, answered = trio.Event(), trio.Event()

    async def kill(payload: bytes) -> bytes:
        await over.wait()
        return payload

    async def wait() -> None:
        await service.answered()
        answered.set()

    await service.answered()
    waiting = Handler(kill, cancel_on_disconnect=True)
    assert service._counted(waiting) is waiting
    nursery.start_soon(service._counted(Handler(kill)).run, b"")
    await wait_all_tasks_blocked()
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not answered.is_set()
    over.set()
    await answered.wait()


async def test_a_call_that_was_refused_is_not_under_way_any_more(nursery: trio.Nursery) -> None:
    service = TaskService(Pod("k8s.io", nursery, Events()))
    pause = service.services()[NAMES[0]]["Pause"]
    assert isinstance(pause, Handler)
    with pytest.raises(RpcError):
        await pause.run(task_pb2.PauseRequest(id="nobody").SerializeToString())
    with trio.fail_after(1):
        await service.answered()
