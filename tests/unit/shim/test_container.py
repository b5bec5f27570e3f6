"""What a container does about a request in each of its states, and the order of what it announces."""

import json
import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf.message import Message
from tests.unit.shim.fakes import World
from tests.unit.shim.states import reach
from trio.testing import wait_all_tasks_blocked

from zeropod.kernel.pidfd import ExitStatus
from zeropod.lifecycle.controller import Controller
from zeropod.lifecycle.machine import ASLEEP, Answer, Request, State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.suspend import SuspendStrategy
from zeropod.rpc.messages import cgroups_v2_pb2, events_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.images import ImageStore
from zeropod.runtime.spec import CONTAINER_NAME
from zeropod.shim.container import Container
from zeropod.shim.delete import REMOVED


class Asking:
    """A request in a task of its own."""

    def __init__(self, container: Container, request: Request, nursery: trio.Nursery) -> None:
        self.answer: Answer | None = None
        self.error: RpcError | None = None
        self.leave = trio.Event()
        nursery.start_soon(self._ask, container, request)

    async def _ask(self, container: Container, request: Request) -> None:
        try:
            async with container.allowed(request) as answer:
                self.answer = answer
                await self.leave.wait()
        except RpcError as error:
            self.error = error


def exits(world: World) -> list[tuple[str, int]]:
    return [(event.id, event.exit_status) for event in world.events.events if isinstance(event, events_pb2.TaskExit)]


async def running(world: World) -> Container:
    await world.container.create()
    await world.container.start()
    return world.container


async def stopped(world: World) -> Container:
    container = await running(world)
    os.kill(container.init.pid, signal.SIGKILL)
    await container.init.exited.wait()
    return container


# What is allowed


async def test_what_is_possible_at_once_is_done_at_once(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    async with world.container.allowed(Request.EXEC) as answer:
        assert answer is Answer.PASS


async def test_a_request_waits_for_the_end_of_a_checkpoint_that_fails(world: World, nursery: trio.Nursery) -> None:
    life = world.container.life
    reach(life, State.CHECKPOINTING)
    asking = Asking(world.container, Request.PAUSE, nursery)
    await wait_all_tasks_blocked()
    assert asking.answer is None
    reach(life, State.RUNNING)
    await wait_all_tasks_blocked()
    assert asking.answer is Answer.PASS


async def test_a_request_during_a_checkpoint_wakes_the_container_afterwards(
    world: World, nursery: trio.Nursery
) -> None:
    life = world.container.life
    reach(life, State.CHECKPOINTING)
    asking = Asking(world.container, Request.EXEC, nursery)
    await wait_all_tasks_blocked()
    assert not life.wake_wanted.is_set()
    reach(life, State.COLD)
    await wait_all_tasks_blocked()
    assert life.wake_wanted.is_set()
    reach(life, State.RESTORING)
    await wait_all_tasks_blocked()
    assert asking.answer is None
    reach(life, State.RUNNING)
    await wait_all_tasks_blocked()
    assert asking.answer is Answer.PASS


async def test_a_container_is_held_awake_from_the_request_to_its_end(world: World, nursery: trio.Nursery) -> None:
    life = world.container.life
    reach(life, State.COLD)
    asking = Asking(world.container, Request.EXEC, nursery)
    await wait_all_tasks_blocked()
    reach(life, State.RUNNING)
    await wait_all_tasks_blocked()
    assert life.inhibited_by == "a request is under way: exec"
    asking.leave.set()
    await wait_all_tasks_blocked()
    assert life.inhibited_by == ""


async def test_a_container_that_ends_while_somebody_waits_for_its_wake_is_gone(
    world: World, nursery: trio.Nursery
) -> None:
    life = world.container.life
    reach(life, State.COLD)
    asking = Asking(world.container, Request.SIGNAL, nursery)
    await wait_all_tasks_blocked()
    reach(life, State.STOPPED)
    await wait_all_tasks_blocked()
    assert asking.error is not None
    assert asking.error.code is Code.NOT_FOUND
    assert life.inhibited_by == ""


REFUSALS = [
    (State.RUNNING, Request.START, "cannot start a running process"),
    (State.RUNNING, Request.DELETE, "cannot delete a running process"),
    (State.STOPPED, Request.EXEC, "cannot exec in a stopped state"),
    (State.PAUSED, Request.PAUSE, "cannot pause a paused container"),
    (State.CREATED, Request.RESUME, "cannot resume a created container"),
]


@pytest.mark.parametrize(("state", "request_", "text"), REFUSALS)
async def test_what_is_refused_names_the_request_and_the_state_in_the_words_of_containerds_shim(
    world: World, state: State, request_: Request, text: str
) -> None:
    reach(world.container.life, state)
    with pytest.raises(RpcError) as refusal:
        async with world.container.allowed(request_):
            pass
    assert (refusal.value.code, refusal.value.message) == (Code.UNKNOWN, text)
    assert world.container.life.inhibited_by == ""


@pytest.mark.parametrize("state", [state for state in State if state in ASLEEP])
async def test_a_refusal_calls_a_sleeping_container_running(world: World, state: State) -> None:
    reach(world.container.life, state)
    with pytest.raises(RpcError, match="cannot delete a running process"):
        await world.container.delete()


# Start and exit


async def test_a_start_is_announced_with_the_pid(world: World) -> None:
    container = await running(world)
    [event] = world.events.events
    assert event == events_pb2.TaskStart(container_id="web", pid=world.runc.pids[0])
    assert container.init.pid == world.runc.pids[0]
    assert world.runc.calls == ["create", "start"]


async def test_no_exit_is_announced_before_the_start(world: World) -> None:
    container = world.container

    async def die_at_once() -> None:
        init_process = container.init_process
        assert init_process is not None
        os.kill(init_process.pid, signal.SIGKILL)
        await init_process.exited.wait()
        await wait_all_tasks_blocked()
        assert world.events.events == []

    world.runc.hooks["start"] = die_at_once
    await container.create()
    await container.start()
    await container.init.exited.wait()
    await wait_all_tasks_blocked()
    assert world.events.names == ["TaskStart", "TaskExit"]
    assert exits(world) == [("web", 137)]


async def test_one_that_dies_before_its_start_is_reported_without_a_start(world: World) -> None:
    await world.container.create()
    os.kill(world.runc.pids[0], signal.SIGKILL)
    await world.container.init.exited.wait()
    await wait_all_tasks_blocked()
    assert world.events.names == ["TaskExit"]
    with pytest.raises(RpcError, match="cannot start a stopped process"):
        await world.container.start()


async def test_an_exit_is_announced_with_its_status_and_time(world: World) -> None:
    container = await running(world)
    await container.kill(signal.SIGTERM, everyone=False)
    await container.init.exited.wait()
    event = world.events.events[-1]
    assert isinstance(event, events_pb2.TaskExit)
    assert container.init.exit is not None
    assert (event.pid, event.exit_status) == (container.init.pid, 143)
    assert event.exited_at.ToNanoseconds() == container.init.exit.at_ns
    assert container.life.state is State.STOPPED


async def test_an_expected_exit_is_not_the_containers(world: World) -> None:
    container = await running(world)
    assert container.init_process is not None
    container.init_process.exit_expected = True
    os.kill(container.init.pid, signal.SIGKILL)
    await container.init_process.exited.wait()
    await wait_all_tasks_blocked()
    assert container.life.state is State.RUNNING
    assert exits(world) == []


async def test_an_exit_is_announced_once(world: World) -> None:
    container = await stopped(world)
    await container.finish(ExitStatus(1, 1, 1))
    assert exits(world) == [("web", 137)]


async def test_who_gives_up_waiting_for_an_end_does_not_stop_it(world: World) -> None:
    reach(world.container.life, State.COLD)
    with trio.CancelScope() as scope:
        scope.cancel()
        await world.container.finish(ExitStatus(1, 137, 1))
    assert exits(world) == [("web", 137)]


async def test_a_failed_creation_says_what_runc_said(world: World) -> None:
    world.runc.fails["create"] = "exec: not found"
    with pytest.raises(RpcError) as failure:
        await world.container.create()
    assert failure.value.message == "OCI runtime create failed: exec: not found"


async def test_a_failed_start_announces_nothing(world: World) -> None:
    world.runc.fails["start"] = "no such file"
    await world.container.create()
    with pytest.raises(RpcError, match="OCI runtime start failed: no such file"):
        await world.container.start()
    assert world.events.events == []
    assert world.container.life.state is State.CREATED


async def test_an_exit_is_announced_after_the_answer_to_the_signal_that_brought_it(
    world: World, nursery: trio.Nursery
) -> None:
    container, delivered = await running(world), trio.Event()

    async def kills_and_takes_its_time() -> None:
        os.kill(container.init.pid, signal.SIGKILL)
        await delivered.wait()
        world.runc.fails["kill"] = ""  # the process is gone: nothing more to do for the stand-in

    world.runc.hooks["kill"] = kills_and_takes_its_time
    answered = trio.Event()

    async def kill() -> None:
        with suppress(RpcError):
            await container.kill(signal.SIGKILL, everyone=False)
        assert exits(world) == []
        answered.set()

    nursery.start_soon(kill)
    assert container.init_process is not None
    await container.init_process.exited.wait()
    await wait_all_tasks_blocked()
    assert not container.init.exited.is_set()
    delivered.set()
    await container.init.exited.wait()
    assert answered.is_set()
    assert exits(world) == [("web", 137)]


@pytest.mark.parametrize(("namespaces", "killed"), [([{"type": "pid"}], False), ([], True)])
async def test_processes_that_share_the_pids_of_others_are_killed_with_init(
    tmp_path: Path, cgroup: Path, nursery: trio.Nursery, namespaces: list[dict[str, str]], killed: bool
) -> None:
    world = World.make(tmp_path, nursery, linux={"namespaces": namespaces})
    await stopped(world)
    assert ("kill web 9" in world.runc.calls) is killed


# Signals


async def test_a_signal_goes_to_runc(world: World) -> None:
    container = await running(world)
    await container.kill(signal.SIGCONT, everyone=False)
    assert world.runc.calls[-1] == "kill web 18"


@pytest.mark.parametrize(("number", "wake_on_stop"), [(signal.SIGTERM, False), (signal.SIGKILL, True)])
async def test_a_container_on_disk_is_killed_without_being_woken(world: World, number: int, wake_on_stop: bool) -> None:
    container = world.container
    container.settings = replace(container.settings, wake_on_stop=wake_on_stop)
    container.init.pid = 4711
    reach(container.life, State.COLD)
    await container.kill(number, everyone=True)
    assert not container.life.wake_wanted.is_set()
    assert world.runc.calls == []
    assert exits(world) == [("web", 128 + number)]
    assert container.life.state is State.STOPPED


@pytest.mark.parametrize("state", [State.STANDBY, State.DOZING, State.COLD])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
async def test_another_signal_wakes_a_sleeping_container_first(
    world: World, nursery: trio.Nursery, state: State, number: int
) -> None:
    """A stop signal, too, unless the container says otherwise: it is to shut down in order."""
    container = world.container
    reach(container.life, state)
    nursery.start_soon(container.kill, number, False)
    await wait_all_tasks_blocked()
    assert container.life.wake_wanted.is_set()
    assert world.runc.calls == []
    reach(container.life, State.RUNNING)
    await wait_all_tasks_blocked()
    assert world.runc.calls == [f"kill web {number}"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
async def test_a_container_that_is_stopped_does_not_sleep_again(world: World, number: int) -> None:
    """However long its shutdown takes, and whatever becomes of the signal."""
    container = world.container
    reach(container.life, State.RUNNING)
    for _ in range(2):
        await container.kill(number, everyone=False)
    stops = number == signal.SIGTERM
    assert container.life.inhibitors == (Reason.STOPPING.because(),) * stops


async def test_any_signal_that_a_kubelet_sends_is_its_stop_signal(world: World) -> None:
    container = world.container
    container.spec = container.spec.with_annotation(CONTAINER_NAME, "nginx")
    reach(container.life, State.RUNNING)
    await container.kill(signal.SIGHUP, everyone=False)
    assert container.life.inhibited_by == "it is being stopped"


async def test_a_stop_signal_ends_a_container_in_standby_through_its_own_processes(
    world: World, nursery: trio.Nursery
) -> None:
    """Also with `wake-on-stop: "false"`, which is about one that has none."""
    container = world.container
    container.settings = replace(container.settings, wake_on_stop=False)
    reach(container.life, State.STANDBY)
    nursery.start_soon(container.kill, signal.SIGTERM, False)
    await wait_all_tasks_blocked()
    assert (container.life.wake_wanted.is_set(), exits(world)) == (True, [])


async def test_a_signal_to_a_stopped_container_finds_nobody(world: World) -> None:
    container = await stopped(world)
    with pytest.raises(RpcError, match="process already finished") as refusal:
        await container.kill(signal.SIGKILL, everyone=False)
    assert refusal.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("container not running", Code.NOT_FOUND),
        ("os: process already finished", Code.NOT_FOUND),
        ("container does not exist", Code.NOT_FOUND),
        ("permission denied", Code.UNKNOWN),
    ],
)
async def test_a_signal_that_runc_cannot_deliver_is_reported_as_containerd_expects(
    world: World, said: str, code: Code
) -> None:
    reach(world.container.life, State.RUNNING)
    world.runc.fails["kill"] = said
    with pytest.raises(RpcError) as failure:
        await world.container.kill(signal.SIGKILL, everyone=False)
    assert failure.value.code is code


async def test_a_signal_to_everybody_reaches_what_a_stopped_container_has_left_behind(world: World) -> None:
    container = await stopped(world)
    await container.kill(signal.SIGKILL, everyone=True)
    assert world.runc.calls[-1] == "kill web 9"


# Pause, limits, checkpoints


async def test_pause_and_resume_are_announced(world: World) -> None:
    container, states = world.container, []
    reach(container.life, State.RUNNING)
    for change in (container.pause, container.resume):
        await change()
        states.append(container.life.state)
    assert states == [State.PAUSED, State.RUNNING]
    assert world.events.names == ["TaskPaused", "TaskResumed"]
    assert world.runc.calls == ["pause", "resume"]


async def test_a_pause_that_fails_changes_nothing(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    world.runc.fails["pause"] = "no freezer"
    with pytest.raises(RpcError, match="OCI runtime pause failed: no freezer"):
        await world.container.pause()
    assert world.container.life.state is State.RUNNING
    assert world.events.events == []


def limits(world: World) -> object:
    return json.loads((world.runc.bundle / "config.json").read_text())["linux"].get("resources")


async def test_new_limits_go_to_runc_and_into_the_bundle(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    await world.container.update(b'{"memory": {"limit": 1}}')
    await world.container.update(b'{"memory": {"swap": 2}, "pids": {"limit": 3}}')
    assert world.runc.calls == ["update", "update"]
    assert limits(world) == {"memory": {"limit": 1, "swap": 2}, "pids": {"limit": 3}}


async def test_new_limits_of_a_sleeping_container_only_go_into_the_bundle(world: World) -> None:
    reach(world.container.life, State.COLD)
    await world.container.update(b'{"memory": {"limit": 1}}')
    assert world.runc.calls == []
    assert not world.container.life.wake_wanted.is_set()
    assert limits(world) == {"memory": {"limit": 1}}


async def test_limits_that_runc_refuses_do_not_get_into_the_bundle(world: World) -> None:
    reach(world.container.life, State.RUNNING)
    world.runc.fails["update"] = "too little memory"
    with pytest.raises(RpcError, match="too little memory"):
        await world.container.update(b'{"memory": {"limit": 1}}')
    assert limits(world) is None


class Needs:
    """Stands in for a strategy."""

    answered = 0

    def memory_needed(self) -> int:
        return 75 << 20


def with_memory_out(world: World) -> None:
    needs: Any = Needs()
    world.container.controller = Controller(world.container, "", SuspendStrategy)
    world.container.controller.strategy = needs


@pytest.mark.parametrize("state", [State.RUNNING, State.STANDBY, State.COLD])
async def test_a_memory_limit_below_what_it_needs_to_come_back_is_refused(world: World, state: State) -> None:
    with_memory_out(world)
    reach(world.container.life, state)
    with pytest.raises(RpcError) as refusal:
        await world.container.update(b'{"memory": {"limit": 41943040}, "cpu": {"shares": 7}}')
    for part in ("41943040 (40 MiB)", "78643200 (75 MiB) to come back", "zeropod wake"):
        assert part in refusal.value.message
    assert (world.runc.calls, limits(world)) == ([], None)
    assert not world.container.life.wake_wanted.is_set()


@pytest.mark.parametrize("memory", [{"limit": 75 << 20}, {"limit": -1}, {"limit": 0}, {"reservation": 1}, {}])
async def test_other_limits_of_one_whose_memory_is_out_are_set(world: World, memory: dict[str, int]) -> None:
    with_memory_out(world)
    reach(world.container.life, State.STANDBY)
    await world.container.update(json.dumps({"memory": memory}).encode())
    assert world.runc.calls == ["update"]
    assert limits(world) == {"memory": memory}


async def test_limits_that_are_no_json_are_an_invalid_argument(world: World) -> None:
    with pytest.raises(RpcError) as refusal:
        await world.container.update(b"{")
    assert refusal.value.code is Code.INVALID_ARGUMENT


async def test_a_checkpoint_for_containerd_is_runcs(world: World, tmp_path: Path) -> None:
    reach(world.container.life, State.RUNNING)
    await world.container.checkpoint(tmp_path / "image", None, ["--leave-running"])
    assert world.runc.calls == ["checkpoint"]
    assert (world.runc.bundle / "criu-work").is_dir()


async def test_a_checkpoint_for_containerd_wakes_a_sleeping_container_first(
    world: World, nursery: trio.Nursery, tmp_path: Path
) -> None:
    reach(world.container.life, State.COLD)
    nursery.start_soon(world.container.checkpoint, tmp_path / "image", None, [])
    await wait_all_tasks_blocked()
    assert world.container.life.wake_wanted.is_set()
    assert world.runc.calls == []
    reach(world.container.life, State.RUNNING)
    await wait_all_tasks_blocked()
    assert world.runc.calls == ["checkpoint"]


# Looking


async def test_the_pids_are_those_of_the_cgroup_while_it_is_awake(world: World, cgroup: Path) -> None:
    container = await running(world)
    (cgroup / "cgroup.procs").write_text("7\n12\n")
    assert container.pids() == [7, 12]
    reach(container.life, State.COLD)
    assert container.pids() == []


async def test_statistics_while_asleep_are_the_last_ones_without_present_use(world: World) -> None:
    container = world.container
    container.slept = cgroups_v2_pb2.Metrics(
        cpu=cgroups_v2_pb2.CPUStat(usage_usec=5), pids=cgroups_v2_pb2.PidsStat(current=9)
    )
    reach(container.life, State.COLD)
    stats: Message = container.stats()
    assert isinstance(stats, cgroups_v2_pb2.Metrics)
    assert (stats.cpu.usage_usec, stats.pids.current) == (5, 0)


async def test_without_a_cgroup_there_are_no_statistics(world: World) -> None:
    with pytest.raises(RpcError) as refusal:
        world.container.stats()
    assert refusal.value.code is Code.NOT_FOUND


# The end


async def test_a_stopped_container_leaves_nothing_behind(world: World) -> None:
    container = await stopped(world)
    container.store.prepare()
    status = await container.delete()
    assert (status.pid, status.code) == (world.runc.pids[0], 137)
    assert world.events.names == ["TaskStart", "TaskExit", "TaskDelete"]
    assert world.runc.calls[-1] == "delete"
    assert world.pod.containers == {}
    assert not container.store.directory.exists()


async def test_a_deleted_container_leaves_a_note_that_nothing_is_left(world: World) -> None:
    container = await stopped(world)
    note = container.runc.bundle / REMOVED
    world.runc.fails["delete"] = "device or resource busy"
    with pytest.raises(RpcError):
        await container.delete()
    assert not note.exists()
    del world.runc.fails["delete"]
    await container.delete()
    assert note.exists()


async def test_removing_gigabytes_keeps_no_other_container_waiting(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, removed = threading.Event(), []
    monkeypatch.setattr(ImageStore, "remove", lambda _: removed.append(may_go_on.wait(10)))
    await world.container.create()
    reach(world.container.life, State.STOPPED)
    nursery.start_soon(world.container.delete)
    await wait_all_tasks_blocked(0.05)
    may_go_on.set()
    while not removed:  # noqa: ASYNC110 - by another thread
        await trio.sleep(0.001)
    assert removed == [True]


async def test_one_that_runc_has_forgotten_is_deleted_all_the_same(world: World) -> None:
    container = await stopped(world)
    world.runc.fails["delete"] = "container does not exist"
    await container.delete()
    assert world.pod.containers == {}


async def test_a_deletion_that_fails_can_be_repeated(world: World) -> None:
    container = await stopped(world)
    world.runc.fails["delete"] = "device or resource busy"
    with pytest.raises(RpcError, match="failed to delete task: device or resource busy"):
        await container.delete()
    assert world.pod.containers == {"web": container}
    del world.runc.fails["delete"]
    await container.delete()
    assert world.pod.containers == {}
    assert world.events.names.count("TaskDelete") == 1


@pytest.mark.parametrize("ran_out", [True, False])
async def test_that_there_was_no_memory_left_is_delivered_before_the_exit_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch, ran_out: bool
) -> None:
    container = await running(world)
    known = []

    async def flush(_: float) -> None:
        await trio.lowlevel.checkpoint()
        known.append((world.events.names[-1], container.init.exited.is_set()))

    monkeypatch.setattr(world.events, "flush", flush)
    if ran_out:
        container._out_of_memory()
    os.kill(container.init.pid, signal.SIGKILL)
    await container.init.exited.wait()
    assert known == [("TaskOOM", False)] * ran_out
