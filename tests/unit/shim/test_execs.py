"""The additional processes of a container."""

import json
import os
import signal
from pathlib import Path

import pytest
import trio
from tests.unit.shim.fakes import World
from tests.unit.shim.states import reach
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.lifecycle.machine import State
from zeropod.rpc.messages import events_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.stdio import ProcessIO, Stdio
from zeropod.shim.process import Process


def added(world: World, id: str = "sh") -> Process:
    process = Process(id, ProcessIO(Stdio()), {"args": ["sh"]})
    world.container.execs.add(process)
    return process


async def end(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    await process.exited.wait()
    await wait_all_tasks_blocked()


async def test_the_life_of_an_exec_is_announced_step_by_step(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    process = added(world)
    pid = await world.container.execs.start("sh")
    assert process.pid == pid
    await end(process)
    first, second, third = world.events.events
    assert first == events_pb2.TaskExecAdded(container_id="web", exec_id="sh")
    assert second == events_pb2.TaskExecStarted(container_id="web", exec_id="sh", pid=pid)
    assert isinstance(third, events_pb2.TaskExit)
    assert (third.container_id, third.id, third.pid, third.exit_status) == ("web", "sh", pid, 137)


async def test_a_container_is_held_awake_until_its_last_exec_has_ended(world: World) -> None:
    life = world.container.life
    reach(life, State.RUNNING)
    first, second = added(world, "1"), added(world, "2")
    await world.container.execs.start("1")
    await world.container.execs.start("2")
    assert life.inhibited_by == "exec 1 is running"
    await end(first)
    assert life.inhibited_by == "exec 2 is running"
    await end(second)
    assert life.inhibited_by == ""


async def test_a_container_is_held_awake_while_what_an_exec_has_left_holds_its_output(
    world: World, tmp_path: Path
) -> None:
    life = world.container.life
    reach(life, State.RUNNING)
    os.mkfifo(tmp_path / "stdout")
    process = Process("sh", ProcessIO(Stdio(stdout=str(tmp_path / "stdout"))), {"args": ["sh"]})
    world.container.execs.add(process)
    await world.container.execs.start("sh")
    assert process.io.streams.stdout is not None
    inherited = os.dup(process.io.streams.stdout)
    await end(process)
    assert life.inhibited_by == "exec sh has ended, but a process that it started still has its output open"
    os.close(inherited)
    await process.io.drained.wait()
    await wait_all_tasks_blocked()
    assert life.inhibited_by == ""


async def test_a_deleted_exec_holds_no_container_awake_by_what_it_has_left(
    world: World, tmp_path: Path, autojump_clock: MockClock
) -> None:
    life = world.container.life
    reach(life, State.RUNNING)
    os.mkfifo(tmp_path / "stdout")
    process = Process("sh", ProcessIO(Stdio(stdout=str(tmp_path / "stdout"))), {"args": ["sh"]})
    world.container.execs.add(process)
    await world.container.execs.start("sh")
    assert process.io.streams.stdout is not None
    inherited = os.dup(process.io.streams.stdout)
    os.kill(process.pid, signal.SIGKILL)
    await process.exited.wait()
    await world.container.execs.delete("sh")
    await wait_all_tasks_blocked()
    assert life.inhibited_by == ""
    os.close(inherited)


async def test_an_exec_wakes_a_sleeping_container_first(world: World, nursery: trio.Nursery) -> None:
    life = world.container.life
    reach(life, State.COLD)
    process = added(world)
    nursery.start_soon(world.container.execs.start, "sh")
    await wait_all_tasks_blocked()
    assert life.wake_wanted.is_set()
    assert world.runc.calls == []
    reach(life, State.RUNNING)
    while not process.pid:
        await trio.lowlevel.checkpoint()
    assert world.runc.calls == ["exec"]
    await wait_all_tasks_blocked()
    assert life.inhibited_by == "exec sh is running"


async def test_there_is_no_moment_without_a_hold_between_the_request_and_the_watching(world: World) -> None:
    life = world.container.life
    reach(life, State.RUNNING)
    added(world)
    seen: list[str] = []

    async def watch() -> None:
        while True:
            await life.changed()
            seen.append(life.inhibited_by)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        await world.container.execs.start("sh")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen
    assert "" not in seen


async def test_the_exit_of_an_exec_is_announced_before_that_of_init(world: World) -> None:
    container = world.container
    await container.create()
    await container.start()
    process = added(world)
    await container.execs.start("sh")
    os.kill(container.init.pid, signal.SIGKILL)
    assert container.init_process is not None
    await container.init_process.exited.wait()
    await wait_all_tasks_blocked()
    assert "TaskExit" not in world.events.names
    os.kill(process.pid, signal.SIGKILL)
    await container.init.exited.wait()
    await wait_all_tasks_blocked()
    exits = [event.id for event in world.events.events if isinstance(event, events_pb2.TaskExit)]
    assert exits == ["sh", "web"]


async def test_the_process_is_described_to_runc_in_a_file_that_goes_away(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    described: list[object] = []

    async def look() -> None:
        described.append(json.loads((world.runc.bundle / "sh-process.json").read_text()))

    world.runc.hooks["exec"] = look
    added(world)
    await world.container.execs.start("sh")
    assert described == [{"args": ["sh"]}]
    assert not [path.name for path in world.runc.bundle.iterdir() if path.name.startswith("sh")]


async def test_an_exec_that_runc_cannot_start_leaves_the_container_free_to_sleep(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    world.runc.fails["exec"] = "executable not found"
    process = added(world)
    with pytest.raises(RpcError, match="OCI runtime exec failed: executable not found"):
        await world.container.execs.start("sh")
    assert world.container.life.inhibited_by == ""
    assert process.pid == 0
    assert world.events.names == ["TaskExecAdded"]
    assert not [path.name for path in world.runc.bundle.iterdir() if path.name.startswith("sh")]


async def test_ids_of_execs_are_unique(world: World) -> None:
    added(world)
    with pytest.raises(RpcError) as refusal:
        added(world)
    assert refusal.value.code is Code.ALREADY_EXISTS


async def test_a_stopped_container_takes_no_exec(world: World) -> None:
    reach(world.container.life, State.STOPPED)
    with pytest.raises(RpcError, match="cannot exec in a stopped state"):
        added(world)


async def test_an_exec_starts_once(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    process = added(world)
    await world.container.execs.start("sh")
    with pytest.raises(RpcError, match="cannot start a running process"):
        await world.container.execs.start("sh")
    await end(process)
    with pytest.raises(RpcError, match="cannot start a stopped process"):
        await world.container.execs.start("sh")
    assert world.runc.calls == ["exec"]


async def test_an_unknown_exec_is_not_found(world: World) -> None:
    with pytest.raises(RpcError) as refusal:
        world.container.execs.get("nobody")
    assert (refusal.value.code, refusal.value.message) == (Code.NOT_FOUND, "process does not exist nobody: not found")


async def test_a_signal_reaches_the_exec_alone(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    process = added(world)
    await world.container.execs.start("sh")
    world.container.execs.kill("sh", signal.SIGTERM)
    await process.exited.wait()
    assert process.exit is not None
    assert process.exit.code == 143
    assert world.runc.calls == ["exec"]


async def test_an_exec_that_has_not_started_takes_no_signal(world: World) -> None:
    added(world)
    with pytest.raises(RpcError, match="process not created") as refusal:
        world.container.execs.kill("sh", signal.SIGKILL)
    assert refusal.value.code is Code.FAILED_PRECONDITION


async def test_an_exec_that_has_ended_is_not_found_by_a_signal(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    process = added(world)
    await world.container.execs.start("sh")
    await end(process)
    with pytest.raises(RpcError, match="process already finished") as refusal:
        world.container.execs.kill("sh", signal.SIGKILL)
    assert refusal.value.code is Code.NOT_FOUND


async def test_only_an_exec_that_does_not_run_is_deleted(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    process = added(world)
    await world.container.execs.start("sh")
    with pytest.raises(RpcError, match="cannot delete a running process"):
        await world.container.execs.delete("sh")
    await end(process)
    assert (await world.container.execs.delete("sh")).code == 137
    with pytest.raises(RpcError, match="does not exist"):
        world.container.execs.get("sh")


async def test_an_exec_that_never_started_is_deleted_with_status_0(world: World) -> None:
    added(world)
    status = await world.container.execs.delete("sh")
    assert (status.pid, status.code) == (0, 0)


async def test_running_execs_are_known_by_their_pids(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    process = added(world, "1")
    added(world, "2")
    await world.container.execs.start("1")
    assert world.container.execs.by_pid() == {process.pid: process}


async def test_an_exec_that_is_being_started_is_not_started_again(world: World, nursery: trio.Nursery) -> None:
    reach(world.container.life, State.RUNNING)
    process, may_go_on = added(world), trio.Event()
    world.runc.hooks["exec"] = may_go_on.wait
    nursery.start_soon(world.container.execs.start, "sh")
    await wait_all_tasks_blocked()
    may_go_on.set()
    with pytest.raises(RpcError, match="cannot start a process that is being started"):
        await world.container.execs.start("sh")
    await wait_all_tasks_blocked()
    assert world.runc.calls == ["exec"]
    await end(process)


async def test_an_exec_that_could_not_be_started_may_be_started_again(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    process = added(world)
    world.runc.fails["exec"] = "not now"
    with pytest.raises(RpcError, match="not now"):
        await world.container.execs.start("sh")
    del world.runc.fails["exec"]
    assert await world.container.execs.start("sh") == process.pid
    await end(process)
