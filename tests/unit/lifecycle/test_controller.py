"""When a container sleeps and wakes, in virtual time; how it does so is a fake's."""

import errno
import itertools
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.lifecycle.said import said
from tests.unit.shim.fakes import FakeNetwork, World, now
from tests.unit.shim.states import reach
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.activator.network import PodNetwork
from zeropod.concurrency import TaskStarter
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.actions import LONGEST_NAP, REBUILD, RECHECK
from zeropod.lifecycle.controller import RESCUE, Controller
from zeropod.lifecycle.idle.monitor import LISTENING, LOOK, WORKING, idle_threshold
from zeropod.lifecycle.machine import Event, Request, State
from zeropod.lifecycle.reasons import Explanation
from zeropod.lifecycle.reservation import DiskBudgetExceeded
from zeropod.lifecycle.settings import Settings
from zeropod.lifecycle.strategy import (
    CheckpointFailed,
    ContainerLost,
    MemoryReport,
    NotIdle,
    SleepStrategy,
    Workload,
    sigkilled,
)
from zeropod.rpc.messages import events_pb2, status_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.shim.status import StatusService

PORT = 8080
SCALEDOWN = 60.0
PATIENCE = 100_000.0
"""Virtual seconds after which what a test waits for will not come any more."""

Phase = Callable[[], Awaitable[object]]


class Script:
    """What the strategies of one container do, and what they have done, whichever of them it was."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []
        self.phases: dict[str, list[Phase | Exception]] = {}
        """What the next calls of a step do or raise, one after the other; then they do what they always do."""
        self.freezes = Event.FROZEN
        """What comes of a freeze."""
        self.refreezes = [Event.FROZEN]
        """What comes of each freeze after a nap; the last one for all further ones."""
        self.dumps = Event.DUMPED
        self.arrivals: list[Event] = []
        """What comes at once to the container, each time that it sleeps; then nothing does until `wanted`."""
        self.happens = Event.CONNECTION
        """What comes with `wanted`."""
        self.wanted = trio.Event()
        self.napped: Explanation | None = None
        self.why_kept: Explanation | None = None
        self.answered = 0
        self.made: list[FakeStrategy] = []

    def make(self, workload: Workload, network: PodNetwork, tasks: TaskStarter) -> "FakeStrategy":
        self.raise_for("make")
        self.made.append(FakeStrategy(self, tasks))
        return self.made[-1]

    def times(self, step: str) -> list[float]:
        return [round(at, 6) for name, at in self.steps if name == step]

    def arrive(self, event: Event = Event.CONNECTION) -> None:
        self.happens = event
        self.wanted.set()

    def raise_for(self, step: str) -> None:
        """Of a step that does not wait."""
        self.steps.append((step, trio.current_time()))
        if phases := self.phases.get(step):
            phase = phases.pop(0)
            assert isinstance(phase, Exception)
            raise phase

    async def perform(self, step: str, default: Phase = trio.lowlevel.checkpoint) -> None:
        self.steps.append((step, trio.current_time()))
        phases = self.phases.get(step)
        phase = phases.pop(0) if phases else default
        if isinstance(phase, Exception):
            await trio.lowlevel.checkpoint()
            raise phase
        await phase()


class FakeStrategy:
    """Goes to sleep and wakes at once, unless the script says otherwise for one of its steps."""

    obstacles: Sequence[Obstacle] = ()
    image_bytes = 0

    def __init__(self, script: Script, tasks: TaskStarter) -> None:
        self.script = script
        self.tasks = tasks
        self.answered = script.answered
        self.why_kept: Explanation | None = None
        self.frozen_at = 0.0
        self.frozen = False
        self.ended = False
        self.released = 0

    def memory_report(self) -> MemoryReport | None:
        return None

    def memory_needed(self) -> int:
        return 0

    async def ready(self) -> None:
        await self.script.perform("ready")

    async def pass_probes(self) -> None:
        assert not self.frozen
        await self.script.perform("pass_probes")

    async def freeze(self) -> Event:
        assert not self.frozen
        assert not self.ended
        self.frozen_at = trio.current_time()
        self.frozen = True
        await self.script.perform("freeze")
        if self.script.freezes is Event.DUMPED:
            self.frozen, self.ended = False, True
        return self.script.freezes

    def move_out(self) -> None:
        assert self.frozen
        self.script.raise_for("move_out")

    def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        self.why_kept = self.script.why_kept
        return (self._arrival,)

    async def _arrival(self) -> Event:
        script = self.script
        if script.arrivals and not script.phases.get("arrival"):
            await trio.lowlevel.checkpoint()
            return script.arrivals.pop(0)
        await script.perform("arrival", script.wanted.wait)
        script.wanted = trio.Event()
        return script.happens

    def thaw(self) -> None:
        self.script.raise_for("thaw")
        self.frozen = False

    def awake(self) -> None:
        self.script.raise_for("awake")
        assert not self.frozen

    def nap(self) -> None:
        self.script.raise_for("nap")
        self.frozen = False

    async def napped(self) -> Explanation | None:
        await self.script.perform("napped")
        return self.script.napped

    async def refreeze(self) -> Event:
        assert not self.frozen
        self.frozen = True
        await self.script.perform("refreeze")
        events = self.script.refreezes
        return events.pop(0) if len(events) > 1 else events[0]

    async def dump(self) -> Event:
        assert self.frozen
        await self.script.perform("dump")
        if self.script.dumps is Event.DUMPED:
            self.frozen, self.ended = False, True
        return self.script.dumps

    async def bring_to_rest(self) -> Event:
        self.frozen = True
        await self.script.perform("bring_to_rest")
        return Event.FROZEN

    async def export(self) -> None:
        assert self.ended
        await self.script.perform("export")

    async def adopt(self, _: object) -> None:
        await self.script.perform("adopt")

    async def restore(self) -> None:
        assert self.ended
        await self.script.perform("restore")
        self.ended = False

    async def make_whole(self) -> None:
        await self.script.perform("make_whole")

    async def watch_memory(self) -> NoReturn:
        await self.script.perform("watch_memory", trio.sleep_forever)
        raise AssertionError("slept for ever")

    async def release(self) -> None:
        self.released += 1
        try:
            await self.script.perform("release")
        finally:
            self.frozen = False


def lasting(seconds: float) -> Phase:
    async def last() -> None:
        await trio.sleep(seconds)

    return last


def failing(error: Exception) -> Phase:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    return fail


class Work:
    """Stands in for a life of the container: uses so much of one CPU, from the beginning of time."""

    def __init__(self, share: float = 0.0, busy: Iterable[bool] = ()) -> None:
        self.share = share
        self.cgroup = self
        self.glances = itertools.cycle([*busy] or [False])
        self.exited = trio.Event()
        self.exit_expected = False

    async def ended_by_itself(self) -> None:
        await self.exited.wait()
        if self.exit_expected:
            await trio.sleep_forever()

    def busy(self) -> bool:
        return next(self.glances)

    def cpu_seconds(self) -> float:
        return self.share * trio.current_time()

    def socket_inodes(self) -> frozenset[int]:
        return frozenset()

    def pids(self) -> list[int]:
        return []

    def is_dead(self) -> bool:
        return self.exited.is_set()


class Sleeping:
    """A running container with its controller at work."""

    def __init__(self, world: World, network: FakeNetwork) -> None:
        self.world = world
        self.container = world.container
        self.life = world.container.life
        self.network = network
        self.script = Script()
        self.ended = trio.Event()
        factory: Callable[[Workload, PodNetwork, TaskStarter], SleepStrategy] = self.script.make
        self.controller = Controller(self.container, network.path, factory)
        self.container.controller = self.controller
        self.work = Work()
        reach(self.life, State.RUNNING)

    @property
    def strategy(self) -> FakeStrategy:
        """The present one, or the last."""
        return self.script.made[-1]

    async def run(self) -> None:
        await self.controller.run()
        self.ended.set()

    def start(self) -> None:
        self.world.pod.nursery.start_soon(self.run)

    async def become(self, state: State) -> None:
        with trio.fail_after(PATIENCE):
            while self.life.state is not state:
                await self.life.changed()

    async def asleep(self) -> None:
        await self.become(State.STANDBY)

    async def cold(self) -> None:
        """On disk, from STANDBY."""
        await self.asleep()
        self.script.arrive(Event.STANDBY_OVER)
        await self.become(State.COLD)

    async def awake(self) -> None:
        await self.become(State.RUNNING)

    async def over(self) -> None:
        with trio.fail_after(PATIENCE):
            await self.ended.wait()


@pytest.fixture
async def sleeping(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Sleeping:
    settings = Settings(scaledown=SCALEDOWN, ports=frozenset({PORT}))
    made = stage(monkeypatch, World.make(tmp_path, nursery, settings), FakeNetwork("/proc/self/ns/net"))
    monkeypatch.setattr(made.container, "init_process", made.work)
    return made


def stage(monkeypatch: pytest.MonkeyPatch, world: World, network: FakeNetwork) -> Sleeping:
    """In virtual time; it listens."""
    network.ports = frozenset({PORT})
    monkeypatch.setattr("zeropod.shim.pod.PodNetwork", lambda *_, **__: network)
    virtual = SimpleNamespace(monotonic=trio.current_time, monotonic_ns=now, time_ns=lambda: 1, time=lambda: 43200.0)
    for module in ("actions", "idle.monitor", "strategy", "dry_run"):
        monkeypatch.setattr(f"zeropod.lifecycle.{module}.time", virtual)
    return Sleeping(world, network)


# Falling asleep


async def test_without_activity_it_sleeps_after_the_scaledown_duration(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.asleep()
    assert sleeping.script.times("freeze") == [SCALEDOWN]
    assert sleeping.controller.metrics.checkpoints == 1


async def test_a_connection_postpones_the_sleep_by_the_whole_duration(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    for pause in (59.0, 59.5, 10.0):
        await trio.sleep(pause)
        sleeping.network.connect(PORT)
    await sleeping.asleep()
    assert sleeping.script.times("freeze") == [59.0 + 59.5 + 10.0 + SCALEDOWN]


def connected(received_ms: int, sent_ms: int) -> TcpSocket:
    """An established connection and the ages of the last data on it, either way."""
    end = ("10.0.0.1", PORT)
    return TcpSocket(2, TcpState.ESTABLISHED, end, ("10.0.0.2", 5), 1, 0, 0, 0, received_ms, sent_ms)


@pytest.mark.parametrize("sock", [connected(10_000, 10_000), connected(20_000, 10_000)])
async def test_data_on_an_established_connection_postpones_the_sleep(
    sleeping: Sleeping, autojump_clock: MockClock, sock: TcpSocket
) -> None:
    sleeping.start()
    await trio.sleep(50.0)
    sleeping.network.sockets = [sock]
    await trio.sleep(11.0)
    sleeping.network.sockets = []
    await sleeping.asleep()
    # At the look after 60 s the data was 10 s old, so the next one was 50 s later.
    assert sleeping.script.times("freeze") == [SCALEDOWN + SCALEDOWN - 10.0]


async def test_after_a_wake_the_kernel_is_not_asked_before_it_could_sleep_again(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.asleep()
    looks = sleeping.network.looks
    sleeping.script.arrive()
    await sleeping.awake()
    await trio.sleep(SCALEDOWN - 1.0)
    assert sleeping.network.looks == looks
    assert "sleeps 60 s after that" in sleeping.life.why
    await sleeping.asleep()
    assert sleeping.network.looks == looks + 1
    assert sleeping.script.times("freeze") == [SCALEDOWN, SCALEDOWN + SCALEDOWN]


REQUEST = connected(received_ms=61_000, sent_ms=70_000)


async def test_what_was_held_awake_since_its_wake_is_looked_at_before_it_sleeps(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    monkeypatch.setattr(sleeping.container, "init_process", work)
    sleeping.start()
    await sleeping.asleep()
    with sleeping.life.inhibit(said("something is on its way")):
        sleeping.script.arrive()
        await sleeping.awake()
        await trio.sleep(2 * SCALEDOWN)
        sleeping.network.sockets = [REQUEST]
        work.share = 1.0
    await trio.sleep(SCALEDOWN)
    assert len(sleeping.script.times("freeze")) == 1
    assert sleeping.life.why == "it is working on a request"


async def test_a_request_that_it_works_on_is_not_put_to_sleep(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(share=0.5)
    monkeypatch.setattr(sleeping.container, "init_process", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(10 * SCALEDOWN)
    assert sleeping.script.times("freeze") == []
    assert sleeping.life.why == "it is working on a request"
    work.share = 0.0
    await sleeping.asleep()


@pytest.mark.parametrize(
    ("share", "sock"), [(WORKING / 2, REQUEST), (1.0, connected(received_ms=70_000, sent_ms=61_000))]
)
async def test_one_that_waits_or_has_answered_sleeps(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, share: float, sock: TcpSocket
) -> None:
    monkeypatch.setattr(sleeping.container, "init_process", Work(share))
    sleeping.network.sockets = [sock]
    sleeping.start()
    await sleeping.asleep()
    assert sleeping.script.times("freeze") == pytest.approx([SCALEDOWN], abs=2 * LOOK)


async def test_a_request_is_not_put_to_sleep_because_it_gets_little_of_the_cpu(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(WORKING / 2, busy=(True, False, True, True, False))
    monkeypatch.setattr(sleeping.container, "init_process", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(10 * SCALEDOWN)
    assert sleeping.script.times("freeze") == []
    work.glances = itertools.cycle([False, True, False, False, True])
    await sleeping.asleep()


async def test_an_exec_that_starts_while_its_work_is_looked_at_holds_it_awake(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(share=0.5)
    monkeypatch.setattr(sleeping.container, "init_process", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(SCALEDOWN + LOOK / 2)
    work.share = 0.0
    with sleeping.life.inhibit(said("exec 7 is running")):
        await trio.sleep(2 * SCALEDOWN)
        assert sleeping.script.times("freeze") == []


async def test_a_container_that_is_paused_while_its_work_is_looked_at_stays_so(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(share=0.5)
    monkeypatch.setattr(sleeping.container, "init_process", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(SCALEDOWN + LOOK / 2)
    work.share = 0.0
    reach(sleeping.life, State.PAUSED)
    await trio.sleep(2 * SCALEDOWN)
    assert (sleeping.life.state, sleeping.script.times("freeze")) == (State.PAUSED, [])


async def test_a_connection_to_another_port_does_not_count(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(30.0)
    sleeping.network.connect(PORT + 1)
    await sleeping.asleep()
    assert sleeping.script.times("freeze") == [SCALEDOWN]


@pytest.mark.parametrize("ports", [frozenset(), frozenset({PORT})], ids=["found", "given"])
async def test_it_sleeps_no_sooner_than_the_duration_after_it_was_found_to_listen(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, ports: frozenset[int]
) -> None:
    sleeping.container.settings = Settings(scaledown=SCALEDOWN, ports=ports)
    sleeping.network.ports = frozenset()
    sleeping.start()
    await trio.sleep(200.0)
    assert sleeping.script.times("freeze") == []
    assert sleeping.life.why == "nothing in it listens on a TCP port"
    sleeping.network.ports = frozenset({PORT})
    began = trio.current_time()
    await sleeping.asleep()
    assert began + SCALEDOWN < trio.current_time() <= began + SCALEDOWN + LISTENING[-1]


async def test_it_is_looked_for_listening_sockets_less_and_less_often(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def listening_ports(inodes: object) -> frozenset[int]:
        looks.append(trio.current_time())
        return frozenset()

    sleeping.container.settings = Settings(scaledown=SCALEDOWN)
    monkeypatch.setattr(sleeping.network, "listening_ports", listening_ports)
    sleeping.start()
    await trio.sleep(sum(LISTENING) + 2 * LISTENING[-1] + 1.0)
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert pauses == pytest.approx([*LISTENING, LISTENING[-1], LISTENING[-1]])


async def test_what_holds_it_awake_is_waited_for_and_named(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    with sleeping.life.inhibit(said("exec 7 is running")):
        await trio.sleep(500.0)
        assert sleeping.life.why == "exec 7 is running"
        assert sleeping.script.times("freeze") == []
    await sleeping.asleep()


async def test_a_paused_container_does_not_sleep(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    reach(sleeping.life, State.PAUSED)
    await trio.sleep(500.0)
    assert sleeping.script.times("freeze") == []
    assert sleeping.life.why == "it is paused"
    reach(sleeping.life, State.RUNNING)
    await sleeping.asleep()


async def test_why_it_is_awake_is_said_in_words(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    assert sleeping.life.why == "last active at 12:00:00 UTC, sleeps 60 s after that"


async def test_one_that_is_busy_after_all_goes_on_and_is_tried_again(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    async def busy() -> None:
        sleeping.network.connect(PORT)
        await trio.lowlevel.checkpoint()
        raise NotIdle(said("a connection came at the last moment"))

    sleeping.script.phases["freeze"] = [busy]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 0.1)
    assert (sleeping.life.state, sleeping.life.why) == (State.RUNNING, "a connection came at the last moment")
    await sleeping.asleep()
    assert sleeping.script.times("freeze") == pytest.approx([SCALEDOWN, 2 * SCALEDOWN], abs=0.1)
    assert sleeping.controller.metrics.checkpoint_errors == 0
    assert sleeping.life.message == ""


async def test_while_it_falls_asleep_its_state_says_so(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.phases["freeze"] = [lasting(2.0)]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1.0)
    assert sleeping.life.state is State.CHECKPOINTING
    await sleeping.asleep()
    assert sleeping.controller.metrics.last_checkpoint == pytest.approx(2.0)


# Failed attempts


async def test_after_a_failed_checkpoint_it_goes_on_and_says_why(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.phases["freeze"] = [CheckpointFailed(said("its checkpoint failed: no space"))]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 0.5)
    life = sleeping.life
    assert (life.state, life.why, life.message) == (State.RUNNING, *["its checkpoint failed: no space"] * 2)
    assert sleeping.controller.metrics.checkpoint_errors == 1


async def test_failed_checkpoints_are_tried_again_after_longer_and_longer_pauses(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.container.settings = Settings(scaledown=0.01, ports=frozenset({PORT}))
    sleeping.script.phases["freeze"] = [CheckpointFailed(said("no space"))] * 8
    sleeping.start()
    await sleeping.asleep()
    times = sleeping.script.times("freeze")
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == pytest.approx([*RECHECK, RECHECK[-1], RECHECK[-1]], abs=0.02)
    assert (sleeping.controller.metrics.checkpoint_errors, sleeping.controller.metrics.checkpoints) == (8, 1)


async def test_a_checkpoint_that_works_ends_the_pauses(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.container.settings = Settings(scaledown=0.01, ports=frozenset({PORT}))
    failed = CheckpointFailed(said("no space"))
    sleeping.script.phases["freeze"] = [failed, failed, failed, trio.lowlevel.checkpoint, failed]
    sleeping.start()
    await sleeping.asleep()
    sleeping.script.arrive()
    await sleeping.awake()
    await sleeping.asleep()
    fifth, sixth = sleeping.script.times("freeze")[-2:]
    assert sixth - fifth == pytest.approx(RECHECK[0], abs=0.02)


# Waking


async def test_a_connection_wakes_it_from_disk(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.phases["restore"] = [lasting(0.25)]
    sleeping.start()
    await sleeping.cold()
    await trio.sleep(1000.0)
    sleeping.script.arrive()
    await wait_all_tasks_blocked()
    assert sleeping.life.state is State.RESTORING
    await sleeping.awake()
    assert sleeping.script.times("restore") == [SCALEDOWN + 1000.0]
    metrics = sleeping.controller.metrics
    assert metrics.last_restore == pytest.approx(0.25)
    assert (metrics.restores, metrics.cold_wake_seconds.count) == (1, 1)


async def test_a_request_wakes_it(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await sleeping.asleep()
    sleeping.life.wake_wanted.set()
    await sleeping.awake()
    assert sleeping.script.times("thaw") == [SCALEDOWN] * 2
    assert sleeping.controller.metrics.standby_wake_seconds.count == 1


@pytest.mark.parametrize("freezes", [Event.FROZEN, Event.DUMPED])
async def test_a_request_that_comes_while_it_falls_asleep_wakes_it_at_once(
    sleeping: Sleeping, autojump_clock: MockClock, freezes: Event
) -> None:
    async def wanted_meanwhile() -> None:
        sleeping.life.wake_wanted.set()
        await trio.sleep(1.0)

    sleeping.script.freezes = freezes
    sleeping.script.phases["freeze"] = [wanted_meanwhile]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 2.0)
    assert sleeping.life.state is State.RUNNING
    assert sleeping.controller.metrics.last_restore_ns
    assert sleeping.script.times("awake" if freezes is Event.FROZEN else "restore") == [SCALEDOWN + 1.0]


@pytest.mark.parametrize(
    ("event", "steps"),
    [
        (Event.CONNECTION, ["thaw", "thaw", "awake"]),
        (Event.DATA, ["thaw", "thaw", "awake"]),
        (Event.FAILED, ["thaw", "thaw", "awake"]),
        (Event.PROBE, ["nap"]),
        (Event.STANDBY_OVER, ["dump"]),
    ],
)
async def test_it_runs_before_anything_else_is_done_about_what_has_come_and_only_then(
    sleeping: Sleeping, autojump_clock: MockClock, event: Event, steps: list[str]
) -> None:
    sleeping.script.phases["napped"] = [trio.sleep_forever]
    sleeping.start()
    await sleeping.asleep()
    seen = len(sleeping.script.steps)
    states: list[State] = []
    thaw = sleeping.strategy.thaw

    def look() -> None:
        states.append(sleeping.life.state)
        thaw()

    sleeping.strategy.thaw = look  # type: ignore[method-assign]
    sleeping.script.arrive(event)
    await wait_all_tasks_blocked()
    done = [step for step, _ in sleeping.script.steps[seen:]]
    assert [step for step in done if step in ("thaw", "awake", "nap", "dump")] == steps
    if "thaw" in steps:
        assert states == [State.STANDBY, State.RUNNING], "the first one waits for nothing, not even for the state"


async def test_from_standby_it_goes_to_the_disk_and_wakes_from_there(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["dump"] = [lasting(2.0)]
    sleeping.start()
    await sleeping.asleep()
    await trio.sleep(500.0)
    sleeping.script.arrive(Event.STANDBY_OVER)
    await sleeping.become(State.COLD)
    sleeping.script.arrive()
    await sleeping.awake()
    steps = [name for name, _ in sleeping.script.steps if name not in ("arrival", "watch_memory")]
    assert steps[:7] == ["make", "ready", "pass_probes", "freeze", "move_out", "dump", "restore"]
    metrics = sleeping.controller.metrics
    assert (metrics.standby_sleeps, metrics.cold_sleeps, metrics.restores) == (1, 1, 1)


async def test_one_that_stays_in_standby_after_all_says_why(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.dumps = Event.KEPT
    sleeping.script.arrivals = [Event.STANDBY_OVER]
    sleeping.script.why_kept = said("stays in STANDBY: a peer has not acknowledged all data yet")
    sleeping.start()
    await sleeping.asleep()
    await trio.sleep(1.0)
    assert sleeping.script.times("dump") == [SCALEDOWN]
    assert (sleeping.life.state, sleeping.life.why) == (State.STANDBY, str(sleeping.script.why_kept))
    assert sleeping.strategy.frozen


@pytest.mark.parametrize("event", [Event.CONNECTION, Event.DATA, Event.WANTED])
async def test_what_comes_before_the_dump_has_begun_wakes_it(
    sleeping: Sleeping, autojump_clock: MockClock, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    sleeping.script.dumps = event
    sleeping.start()
    await sleeping.asleep()
    sleeping.script.arrive(Event.STANDBY_OVER)
    await sleeping.awake()
    assert sleeping.script.times("restore") == []
    assert not sleeping.strategy.frozen
    await wait_all_tasks_blocked()
    assert sleeping.controller.metrics.standby_wake_seconds.count == 1, "it is a wake like any other"


async def test_one_that_can_not_leave_standby_is_awake_and_says_why(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["dump"] = [CheckpointFailed(said("no descriptors"))]
    sleeping.start()
    await sleeping.asleep()
    sleeping.script.arrive(Event.STANDBY_OVER)
    await sleeping.awake()
    await wait_all_tasks_blocked()
    assert sleeping.life.message == "no descriptors"
    await sleeping.asleep()


async def test_it_sleeps_again_after_the_whole_duration(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    for _ in range(3):
        await sleeping.asleep()
        await trio.sleep(10.0)
        sleeping.script.arrive()
        await sleeping.awake()
    await sleeping.asleep()
    assert sleeping.script.times("freeze") == [60.0, 130.0, 200.0, 270.0]


async def test_it_does_not_sleep_again_before_the_last_wake_is_over(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["ready"] = [trio.lowlevel.checkpoint, lasting(300.0)]
    sleeping.start()
    await sleeping.asleep()
    sleeping.script.arrive()
    await sleeping.awake()
    await sleeping.asleep()
    assert sleeping.script.times("freeze") == [60.0, 60.0 + 300.0]


async def test_what_was_wanted_shortly_of_the_last_sleep_is_not_wanted_of_the_next(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.asleep()
    sleeping.script.arrive()
    sleeping.life.nap_wanted.set()
    sleeping.life.wake_wanted.set()
    await sleeping.awake()
    await sleeping.asleep()
    await trio.sleep(1000.0)
    assert sleeping.life.state is State.STANDBY
    assert sleeping.script.times("nap") in ([], [SCALEDOWN])


# The end


def the_exit(sleeping: Sleeping) -> events_pb2.TaskExit:
    [event] = sleeping.world.events.events
    assert isinstance(event, events_pb2.TaskExit)
    return event


async def test_one_that_cannot_be_woken_is_reported_as_killed(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.container.init.pid = 4711
    sleeping.script.phases["restore"] = [ContainerLost("the image is damaged", sigkilled(4711))]
    sleeping.start()
    await sleeping.cold()
    sleeping.script.arrive()
    await sleeping.over()
    assert sleeping.life.state is State.STOPPED
    assert sleeping.life.message == "the image is damaged"
    assert (the_exit(sleeping).pid, the_exit(sleeping).exit_status) == (4711, 137)
    assert sleeping.container.init.exited.is_set()
    assert (sleeping.strategy.released, sleeping.controller.metrics.restore_errors) == (1, 1)


@pytest.mark.parametrize("in_group", [False, True])
@pytest.mark.parametrize("step", ["ready", "freeze", "arrival", "watch_memory", "release"])
async def test_one_that_is_lost_in_any_other_step_is_reported_once(
    sleeping: Sleeping, autojump_clock: MockClock, step: str, in_group: bool
) -> None:
    error: Exception = ContainerLost("its pager died", sigkilled(1))
    if in_group:
        error = ExceptionGroup("of two tasks", [OSError("no such file"), ExceptionGroup("of one", [error])])
    sleeping.script.phases[step] = [error]
    if step == "release":
        sleeping.script.phases["freeze"] = [ValueError("a defect")]
    sleeping.start()
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137
    assert sleeping.strategy.released == 1
    assert (sleeping.life.state, sleeping.life.message) == (State.STOPPED, "its pager died")


@pytest.mark.parametrize("state", [State.RUNNING, State.CHECKPOINTING, State.STANDBY, State.DOZING, State.COLD])
async def test_one_that_a_background_task_finds_lost_is_reported_once(
    sleeping: Sleeping, autojump_clock: MockClock, state: State
) -> None:
    await into(sleeping, state)
    error = ExceptionGroup("", [ContainerLost("its pager died", sigkilled(1))])
    sleeping.strategy.tasks.start_soon(failing(error))
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137
    assert not sleeping.strategy.frozen


@pytest.mark.parametrize("step", ["ready", "pass_probes", "freeze", "arrival", "dump", "napped", "refreeze", "restore"])
async def test_it_can_be_stopped_in_every_step(sleeping: Sleeping, autojump_clock: MockClock, step: str) -> None:
    sleeping.script.phases[step] = [trio.sleep_forever]
    sleeping.script.arrivals = {
        "arrival": [],
        "dump": [Event.STANDBY_OVER],
        "restore": [Event.STANDBY_OVER, Event.CONNECTION],
        "napped": [Event.PROBE],
        "refreeze": [Event.PROBE],
    }.get(step, [])
    sleeping.start()
    await trio.sleep(SCALEDOWN + LONGEST_NAP / 2)
    assert [name for name, _ in sleeping.script.steps if name != "watch_memory"][-1] == step
    sleeping.controller.stop()
    await sleeping.over()
    assert (sleeping.strategy.released, sleeping.strategy.frozen, sleeping.network.closed) == (1, False, 1)
    assert sleeping.world.events.events == []
    assert len(sleeping.script.made) == 1


@pytest.mark.parametrize("hold", [True, False])
async def test_it_can_be_stopped_while_the_container_is_awake(
    sleeping: Sleeping, autojump_clock: MockClock, hold: bool
) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    if hold:
        with sleeping.life.inhibit(said("exec")):
            await trio.sleep(2 * SCALEDOWN)
            sleeping.controller.stop()
            await sleeping.over()
    else:
        sleeping.controller.stop()
        await sleeping.over()
    assert (sleeping.strategy.released, sleeping.network.closed) == (1, 1)


@pytest.mark.parametrize("error", [CheckpointFailed(said("no space")), ValueError("a defect")])
async def test_it_can_be_stopped_between_two_failed_attempts(
    sleeping: Sleeping, autojump_clock: MockClock, error: Exception
) -> None:
    sleeping.script.phases["freeze"] = [error]
    sleeping.start()
    await trio.sleep(SCALEDOWN + RECHECK[0] / 2)
    sleeping.controller.stop()
    await sleeping.over()
    assert sleeping.strategy.released == 1


async def test_one_that_was_stopped_before_its_task_began_does_nothing(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.controller.stop()
    sleeping.start()
    await sleeping.over()
    assert sleeping.script.times("freeze") == []


async def test_what_its_strategy_leaves_running_ends_with_the_container(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    ended = trio.Event()

    async def proxied() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    sleeping.start()
    await sleeping.asleep()
    sleeping.strategy.tasks.start_soon(proxied)
    await wait_all_tasks_blocked()
    assert not ended.is_set()
    sleeping.controller.stop()
    await sleeping.over()
    assert ended.is_set()


async def test_the_network_is_shared_with_the_other_containers_of_the_pod(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    pod = sleeping.world.pod
    with pod.network(sleeping.network.path) as network:
        sleeping.start()
        await sleeping.asleep()
        sleeping.controller.stop()
        await sleeping.over()
        assert network is sleeping.network  # type: ignore[comparison-overlap]  # it stands in for a PodNetwork
        assert sleeping.network.closed == 0
    assert sleeping.network.closed == 1


async def test_the_last_of_a_network_is_closed_in_another_thread(sleeping: Sleeping) -> None:
    may_go_on, closed = threading.Event(), []
    sleeping.network.established.close = lambda: closed.append(may_go_on.wait(10))  # type: ignore[method-assign]
    with sleeping.world.pod.network(sleeping.network.path):
        pass
    await wait_all_tasks_blocked()
    may_go_on.set()
    with trio.fail_after(10):
        while not closed:  # noqa: ASYNC110 - by another thread
            await trio.sleep(0.001)
    assert closed == [True]


# The bulkhead

TEXT = "no such thing"
ERRORS: list[Exception] = [
    ValueError(TEXT),
    CgroupError(TEXT),
    ExceptionGroup("of two tasks", [ValueError(TEXT), KeyError()]),
    OSError(TEXT),
]
AWAKE = [State.RUNNING, State.PAUSED]
PROBED, ON_DISK = [Event.PROBE], [Event.STANDBY_OVER]

# Which of what comes brings a container to the step.
STEPS: dict[str, list[Event]] = {
    "ready": [],
    "pass_probes": [],
    "freeze": [],
    "move_out": [],
    "arrival": [],
    "thaw": [Event.CONNECTION],
    "awake": [Event.CONNECTION],
    "nap": PROBED,
    "napped": PROBED,
    "refreeze": PROBED,
    "dump": ON_DISK,
    "restore": [*ON_DISK, Event.CONNECTION],
    "watch_memory": [],
}
WAITS_FOR_ARRIVAL = {"arrival", "nap", "napped"}
"""Steps in which an OSError has a meaning of its own: it cannot be seen what comes, so it is woken."""


def named(error: Exception) -> str:
    return type(error).__name__


async def into(sleeping: Sleeping, state: State) -> None:
    """Begin, and bring the container into the state, where it stays."""
    script = sleeping.script
    stay: list[Phase | Exception] = [trio.sleep_forever]
    match state:
        case State.CHECKPOINTING:
            script.phases["freeze"] = stay
        case State.DOZING:
            script.arrivals, script.phases["napped"] = [*PROBED], stay
        case State.COLD:
            script.arrivals = [*ON_DISK]
        case State.RESTORING:
            script.arrivals, script.phases["restore"] = [*ON_DISK, Event.CONNECTION], stay
    sleeping.start()
    if state is State.RUNNING:
        await trio.sleep(1.0)
    elif state is State.PAUSED:
        await trio.sleep(1.0)
        reach(sleeping.life, state)
    await sleeping.become(state)
    await wait_all_tasks_blocked()
    assert sleeping.life.state is state


async def goes_on(sleeping: Sleeping, after: float = 0.0) -> None:
    """The container runs, and what it runs in does; later it sleeps again, by a strategy that was made anew."""
    life = sleeping.life
    assert life.state in AWAKE
    assert not any(strategy.frozen or strategy.ended for strategy in sleeping.script.made)
    assert TEXT in life.why
    assert life.message == life.why
    assert sleeping.controller.strategy is None
    assert sleeping.controller.network is None, "it is closed"
    assert sleeping.controller.next_attempt_ns
    assert sleeping.world.events.events == []
    assert not sleeping.world.pod.nursery.cancel_scope.cancel_called
    assert [strategy.released for strategy in sleeping.script.made] == [1] * len(sleeping.script.made)
    if life.state is State.PAUSED:
        life.happen(Event.RESUME)
    made = len(sleeping.script.made)
    sleeping.script.arrivals = []
    await sleeping.asleep()
    assert len(sleeping.script.made) == made + 1
    assert sleeping.strategy.frozen
    assert sleeping.controller.next_attempt_ns == 0
    sleeping.script.arrive()
    await sleeping.awake()


@pytest.mark.parametrize("error", ERRORS, ids=named)
@pytest.mark.parametrize("step", list(STEPS))
async def test_whatever_goes_wrong_in_a_step_the_container_runs_and_sleeps_later(
    sleeping: Sleeping, autojump_clock: MockClock, step: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sleeping.script.arrivals = [*STEPS[step]]
    sleeping.script.phases[step] = [error]
    sleeping.start()
    await trio.sleep(0.5 if step in ("ready", "watch_memory") else SCALEDOWN + 0.5)
    assert TEXT in caplog.text
    if isinstance(error, OSError) and step in WAITS_FOR_ARRIVAL | {"thaw"}:
        assert sleeping.life.state is State.RUNNING
        assert not sleeping.strategy.frozen
        assert len(sleeping.script.made) == 1
        await sleeping.asleep()
        return
    await goes_on(sleeping)


@pytest.mark.parametrize("error", ERRORS, ids=named)
@pytest.mark.parametrize("state", [state for state in State if state not in (State.CREATED, State.STOPPED)])
async def test_whatever_goes_wrong_in_the_background_the_container_runs_and_sleeps_later(
    sleeping: Sleeping, autojump_clock: MockClock, state: State, error: Exception
) -> None:
    await into(sleeping, state)
    sleeping.strategy.tasks.start_soon(failing(error))
    await wait_all_tasks_blocked()
    await goes_on(sleeping)


@pytest.mark.parametrize("error", ERRORS, ids=named)
@pytest.mark.parametrize("state", [State.RUNNING, State.STANDBY, State.DOZING, State.COLD])
async def test_what_watches_the_memory_may_fail_in_each_state(
    sleeping: Sleeping, autojump_clock: MockClock, state: State, error: Exception
) -> None:
    fail = trio.Event()

    async def watch() -> None:
        await fail.wait()
        raise error

    sleeping.script.phases["watch_memory"] = [watch]
    await into(sleeping, state)
    fail.set()
    await wait_all_tasks_blocked()
    await goes_on(sleeping)


@pytest.mark.parametrize("error", ERRORS, ids=named)
async def test_a_network_that_cannot_be_opened_is_tried_again(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    asked: list[float] = []

    def refuse(*_: object, **__: object) -> FakeNetwork:
        asked.append(trio.current_time())
        if len(asked) <= len(REBUILD) + 1:
            raise error
        return sleeping.network

    monkeypatch.setattr("zeropod.shim.pod.PodNetwork", refuse)
    sleeping.start()
    await trio.sleep(REBUILD[0] / 2)
    assert (sleeping.life.state, sleeping.script.made) == (State.RUNNING, [])
    await goes_on(sleeping)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses == pytest.approx([*REBUILD, REBUILD[-1]])


@pytest.mark.parametrize("error", ERRORS, ids=named)
@pytest.mark.parametrize("state", [State.STANDBY, State.DOZING, State.COLD])
async def test_a_network_that_cannot_be_closed_or_opened_again_leaves_it_awake(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, state: State, error: Exception
) -> None:
    await into(sleeping, state)
    failures = [error]

    def close() -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(sleeping.network, "close", close)
    sleeping.strategy.tasks.start_soon(failing(RuntimeError("something else")))
    await wait_all_tasks_blocked()
    await goes_on(sleeping)


@pytest.mark.parametrize("error", ERRORS, ids=named)
async def test_a_kernel_that_does_not_say_what_it_is_used_for_is_asked_again(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failures = [error]

    def counting() -> list[TcpSocket]:
        if failures:
            raise failures.pop()
        return []

    monkeypatch.setattr(sleeping.network, "counting", counting)
    sleeping.start()
    await wait_all_tasks_blocked()
    await goes_on(sleeping)


@pytest.mark.parametrize("error", ERRORS, ids=named)
async def test_a_strategy_that_cannot_be_made_is_tried_again(
    sleeping: Sleeping, autojump_clock: MockClock, error: Exception
) -> None:
    sleeping.script.phases["make"] = [error]
    sleeping.start()
    await wait_all_tasks_blocked()
    await goes_on(sleeping)


@pytest.mark.parametrize("release", ERRORS, ids=named)
@pytest.mark.parametrize("state", [State.CHECKPOINTING, State.STANDBY, State.DOZING, State.COLD])
async def test_what_cannot_be_thawed_or_let_go_of_at_once_goes_on_all_the_same(
    sleeping: Sleeping, autojump_clock: MockClock, state: State, release: Exception
) -> None:
    await into(sleeping, state)
    sleeping.script.phases["thaw"] = [CgroupError("busy")]
    sleeping.script.phases["release"] = [release]
    sleeping.strategy.tasks.start_soon(failing(ValueError("first of all")))
    await wait_all_tasks_blocked()
    await goes_on(sleeping)


async def test_a_restore_that_fails_twice_for_any_reason_is_the_end(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.arrivals = STEPS["restore"][:]
    sleeping.script.phases["restore"] = [ValueError(TEXT), ValueError(TEXT)]
    sleeping.start()
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137
    assert sleeping.life.message == f"cannot be restored: ValueError: {TEXT}"
    assert sleeping.controller.metrics.restore_errors == 1


async def test_a_restore_that_does_not_end_after_a_failure_is_the_end(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    await into(sleeping, State.COLD)
    sleeping.script.phases["restore"] = [trio.sleep_forever]
    sleeping.strategy.tasks.start_soon(failing(ValueError(TEXT)))
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137
    assert "took longer than" in sleeping.life.message


async def test_unexpected_failures_are_tried_again_after_longer_and_longer_pauses_until_it_sleeps(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.container.settings = Settings(scaledown=0.01, ports=frozenset({PORT}))
    sleeping.script.phases["freeze"] = [ValueError(TEXT) for _ in range(7)]
    sleeping.start()
    await sleeping.asleep()
    made = sleeping.script.times("make")
    pauses = [later - earlier for earlier, later in itertools.pairwise(made)]
    assert pauses == pytest.approx([*REBUILD, REBUILD[-1], REBUILD[-1]], abs=0.03)
    sleeping.script.phases["freeze"] = [ValueError(TEXT)]
    sleeping.script.arrive()
    await sleeping.awake()
    await sleeping.asleep()
    assert sleeping.script.times("make")[-1] - sleeping.script.times("freeze")[-2] == pytest.approx(REBUILD[0])


async def test_a_failure_during_a_nap_leaves_nothing_of_the_nap(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.arrivals = [*PROBED]
    sleeping.script.phases["napped"] = [ValueError(TEXT)]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 0.5)
    sleeps = sleeping.controller.metrics.standby_sleeps
    await sleeping.asleep()
    assert sleeping.controller.metrics.standby_sleeps == sleeps + 1, "it is a sleep, and no end of a nap"
    sleeping.script.arrive(Event.PROBE)
    await sleeping.become(State.DOZING)
    assert sleeping.controller.metrics.dozes == 2


async def test_probes_that_were_answered_are_counted_beyond_the_strategy_that_answered_them(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.answered = 7
    sleeping.script.phases["freeze"] = [ValueError(TEXT)]
    sleeping.start()
    await trio.sleep(1.0)
    assert sleeping.container.probes_answered == 7
    await trio.sleep(SCALEDOWN - 0.5)
    assert sleeping.container.probes_answered == 7
    await sleeping.asleep()
    assert sleeping.container.probes_answered == 14
    sleeping.controller.stop()
    await sleeping.over()
    assert sleeping.container.probes_answered == 14


# A checkpoint of containerd's, for which all memory has to be there


@pytest.mark.parametrize("error", [OSError(TEXT), ValueError(TEXT)], ids=named)
async def test_a_checkpoint_does_not_wait_for_ever_after_a_failure(
    sleeping: Sleeping, autojump_clock: MockClock, tmp_path: Path, error: Exception
) -> None:
    sleeping.script.arrivals = [Event.CONNECTION]
    sleeping.script.phases["awake"] = [error]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 0.5)
    with trio.fail_after(1.0):
        await sleeping.container.checkpoint(tmp_path / "one", None, [])
    await sleeping.asleep()
    with trio.fail_after(1.0):
        await sleeping.container.checkpoint(tmp_path / "two", None, [])
    assert len(sleeping.script.times("make_whole")) == 1
    assert sleeping.world.runc.calls == ["checkpoint"] * 2
    assert sleeping.life.state is State.RUNNING


async def test_a_checkpoint_of_a_container_that_ends_meanwhile_does_not_wait_for_its_memory(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["make_whole"] = [trio.sleep_forever]
    sleeping.start()
    await trio.sleep(1.0)

    async def end() -> None:
        await trio.sleep(5.0)
        sleeping.work.exited.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with trio.fail_after(6.0):
            await sleeping.controller.make_whole()


async def test_memory_that_is_found_lost_by_a_checkpoint_is_the_containers_end(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["make_whole"] = [ContainerLost("a part of its memory", sigkilled(1))]
    sleeping.start()
    await trio.sleep(1.0)
    await sleeping.controller.make_whole()
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137


async def test_it_is_told_as_well_when_its_processes_were_ended_for_that(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    async def lose() -> None:
        sleeping.work.exit_expected = True
        sleeping.work.exited.set()
        await trio.sleep(0.1)  # runc forgets the container
        raise ContainerLost("a part of its memory", sigkilled(1))

    sleeping.script.phases["make_whole"] = [lose]
    sleeping.start()
    await trio.sleep(1.0)
    await sleeping.controller.make_whole()
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137


async def test_a_release_that_takes_too_long_is_told_and_ends(
    sleeping: Sleeping, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    sleeping.script.phases["release"] = [trio.sleep_forever]
    sleeping.start()
    await trio.sleep(1.0)
    sleeping.controller.stop()
    with trio.fail_after(RESCUE + 1.0):
        await sleeping.ended.wait()
    assert "its sleep was not released within 120 s; the rest is released with the container" in caplog.text


# Naps


@pytest.fixture
async def standing_by(sleeping: Sleeping) -> Sleeping:
    sleeping.start()
    await sleeping.asleep()
    return sleeping


async def test_a_probe_makes_it_nap_and_is_no_wake(standing_by: Sleeping, autojump_clock: MockClock) -> None:
    standing_by.script.phases["napped"] = [lasting(3.0)]
    sleeps = standing_by.controller.metrics.standby_sleeps
    for _ in range(2):
        standing_by.script.arrive(Event.PROBE)
        await standing_by.become(State.DOZING)
        assert not standing_by.strategy.frozen
        await standing_by.asleep()
        assert standing_by.strategy.frozen
    metrics = standing_by.controller.metrics
    assert (metrics.dozes, metrics.restores, metrics.standby_sleeps) == (2, 0, sleeps)
    assert standing_by.script.times("awake") == []
    await wait_all_tasks_blocked()
    assert len(standing_by.script.times("move_out")) == 3, "what came back in moves out"


async def test_an_exec_keeps_it_running_until_it_has_ended(standing_by: Sleeping, autojump_clock: MockClock) -> None:
    async with standing_by.container.allowed(Request.EXEC):
        assert standing_by.life.state is State.DOZING
        await trio.sleep(5)
        assert standing_by.life.state is State.DOZING
    await standing_by.asleep()
    assert standing_by.controller.metrics.restores == 0


async def test_one_that_is_not_well_after_an_exec_is_awake_and_says_why(
    standing_by: Sleeping, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    standing_by.script.phases["pass_probes"] = [NotIdle(said("it fails a health probe"))]
    async with standing_by.container.allowed(Request.EXEC):
        await trio.sleep(1.0)
    await standing_by.awake()
    await wait_all_tasks_blocked()
    assert "it fails a health probe" in caplog.text


@pytest.mark.parametrize("later", range(6))
async def test_an_exec_that_comes_as_another_ends_finds_it_running_until_its_own_end(
    standing_by: Sleeping, autojump_clock: MockClock, later: int
) -> None:
    async def after_the_other() -> None:
        while standing_by.life.inhibited_by:
            await standing_by.life.changed()
        for _ in range(later):
            await trio.lowlevel.checkpoint()
        async with standing_by.container.allowed(Request.EXEC):
            for _ in range(20):
                assert standing_by.life.state is State.DOZING
                await trio.lowlevel.checkpoint()

    # In which order the two that wait see the end is left to chance by trio.
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            async with standing_by.container.allowed(Request.EXEC):
                nursery.start_soon(after_the_other)
                await trio.sleep(0.1)
        await standing_by.asleep()


@pytest.mark.parametrize("request_", [Request.SIGNAL, Request.SESSION, Request.PAUSE, Request.CHECKPOINT])
async def test_what_needs_more_than_a_nap_gets_it(
    standing_by: Sleeping, autojump_clock: MockClock, request_: Request
) -> None:
    standing_by.script.phases["napped"] = [trio.sleep_forever]
    standing_by.script.arrive(Event.PROBE)
    await standing_by.become(State.DOZING)
    with trio.fail_after(1):
        async with standing_by.container.allowed(request_):
            assert standing_by.life.state is State.RUNNING


async def test_a_nap_that_lasts_becomes_a_wake(standing_by: Sleeping, autojump_clock: MockClock) -> None:
    standing_by.script.phases["napped"] = [trio.sleep_forever]
    standing_by.script.arrive(Event.PROBE)
    await standing_by.become(State.DOZING)
    napping_since = trio.current_time()
    await standing_by.awake()
    assert trio.current_time() - napping_since == pytest.approx(LONGEST_NAP)
    await wait_all_tasks_blocked()
    assert standing_by.controller.metrics.restores == 1


async def test_a_connection_before_the_nap_makes_it_a_wake(
    standing_by: Sleeping, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    standing_by.script.napped = said("a connection waits for it")
    standing_by.script.arrive(Event.PROBE)
    await standing_by.become(State.DOZING)
    await standing_by.awake()
    await wait_all_tasks_blocked()
    assert standing_by.script.times("refreeze") == []
    assert "a connection waits for it" in caplog.text


async def test_what_uses_it_while_it_naps_wakes_it_and_is_no_failure(
    standing_by: Sleeping, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    standing_by.script.phases["refreeze"] = [NotIdle(said("a connection came"))]
    standing_by.script.arrive(Event.PROBE)
    await standing_by.become(State.DOZING)
    await standing_by.awake()
    await wait_all_tasks_blocked()
    metrics = standing_by.controller.metrics
    assert (metrics.restores, metrics.checkpoint_errors, standing_by.life.message) == (1, 0, "")
    assert "a connection came" in caplog.text


async def test_one_that_cannot_be_frozen_again_is_awake_and_says_why(
    standing_by: Sleeping, autojump_clock: MockClock
) -> None:
    standing_by.script.phases["refreeze"] = [CheckpointFailed(said("it cannot be frozen again"))]
    standing_by.script.arrive(Event.PROBE)
    await standing_by.become(State.DOZING)
    await standing_by.awake()
    await wait_all_tasks_blocked()
    assert standing_by.life.message == "it cannot be frozen again"
    assert standing_by.controller.metrics.checkpoint_errors == 1
    await standing_by.asleep()


async def test_a_probe_that_comes_while_it_is_frozen_again_has_it_nap_on(
    standing_by: Sleeping, autojump_clock: MockClock
) -> None:
    standing_by.script.refreezes = [Event.PROBE, Event.FROZEN]
    standing_by.script.arrive(Event.PROBE)
    await standing_by.become(State.DOZING)
    await standing_by.asleep()
    assert len(standing_by.script.times("nap")) == 2
    assert standing_by.controller.metrics.dozes == 1


# Together with the container


async def test_an_exec_that_comes_while_it_is_asked_how_it_is_keeps_it_awake(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["pass_probes"] = [lasting(5.0)]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1.0)
    with trio.fail_after(1.0):
        async with sleeping.container.allowed(Request.EXEC):
            await trio.lowlevel.checkpoint()
    async with sleeping.container.allowed(Request.EXEC):
        await trio.sleep(100.0)
        assert sleeping.script.times("freeze") == []
    await sleeping.asleep()


async def test_a_container_on_disk_that_is_killed_ends_without_waking(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.cold()
    await sleeping.container.kill(9, everyone=False)
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137
    assert sleeping.script.times("restore") == []
    assert sleeping.strategy.released == 1


async def test_a_container_on_disk_that_is_stopped_wakes_to_shut_down_and_does_not_sleep_again(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.cold()
    await sleeping.container.kill(15, everyone=False)
    assert sleeping.world.runc.calls == ["kill web 15"]
    await trio.sleep(100 * SCALEDOWN)
    assert (sleeping.life.state, sleeping.life.why) == (State.RUNNING, "it is being stopped")
    assert len(sleeping.script.times("freeze")) == 1


async def test_a_kill_during_a_checkpoint_ends_the_container_once_it_is_over(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.freezes = Event.DUMPED
    sleeping.script.phases["freeze"] = [lasting(3.0)]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1.0)
    await sleeping.container.kill(9, everyone=False)
    assert trio.current_time() == pytest.approx(SCALEDOWN + 3.0)
    assert the_exit(sleeping).exit_status == 137
    assert sleeping.script.times("restore") == []


async def test_a_pause_wakes_a_sleeping_container_which_then_stays_awake(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.asleep()
    await sleeping.container.pause()
    await trio.sleep(10 * SCALEDOWN)
    assert sleeping.life.state is State.PAUSED
    await sleeping.container.resume()
    await sleeping.asleep()


# On request, and without a disk or for show only


async def answer(sleeping: Sleeping) -> tuple[str, Code | None]:
    """What `zeropod sleep` answers: a state, or why not; and the code of a refusal."""
    try:
        status = await StatusService(sleeping.world.pod).sleep(status_pb2.SleepRequest(id=sleeping.container.id))
    except RpcError as error:
        return error.message, error.code
    return status_pb2.State.Name(status.state), None


async def asked(sleeping: Sleeping) -> str:
    return (await answer(sleeping))[0]


async def test_it_may_be_wanted_to_sleep_at_once(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(5.0)
    sleeping.network.connect(PORT)
    assert await asked(sleeping) == "STANDBY"
    assert sleeping.script.times("freeze") == [5.0]
    assert await asked(sleeping) == "STANDBY", "it sleeps already"
    assert idle_threshold(sleeping.container) == SCALEDOWN


async def test_it_asks_for_no_idle_time_then(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    wanted: list[float] = []

    async def note() -> None:
        wanted.append(idle_threshold(sleeping.container))

    sleeping.script.phases["freeze"] = [note]
    sleeping.start()
    await asked(sleeping)
    assert wanted == [0.0]


@pytest.mark.parametrize(
    ("error", "errors"),
    [
        (NotIdle(said("a connection came")), 0),
        (CheckpointFailed(said("no")), 1),
        (DiskBudgetExceeded(said("max-")), 0),
    ],
)
async def test_the_answer_says_why_it_does_not_sleep(
    sleeping: Sleeping, autojump_clock: MockClock, error: Exception, errors: int
) -> None:
    sleeping.script.phases["freeze"] = [error]
    sleeping.start()
    assert await answer(sleeping) == (f"could not put web to sleep: {error}", Code.FAILED_PRECONDITION)
    assert sleeping.life.state is State.RUNNING
    assert sleeping.controller.metrics.checkpoint_errors == errors
    assert sleeping.controller.metrics.refused_sleeps == isinstance(error, DiskBudgetExceeded)


async def test_a_probe_that_fails_is_the_answer_at_once(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.phases["pass_probes"] = [NotIdle(said("it fails a health probe: status 503"))]
    sleeping.start()
    await trio.sleep(1.0)
    with trio.fail_after(0.1):
        found = await answer(sleeping)
    assert found == (
        "could not put web to sleep: it fails a health probe: status 503",
        Code.FAILED_PRECONDITION,
    )
    assert idle_threshold(sleeping.container) == SCALEDOWN, "the next attempt is as any other"


@pytest.mark.parametrize("error", ERRORS, ids=named)
@pytest.mark.parametrize("step", ["pass_probes", "freeze"])
async def test_an_unexpected_failure_is_the_answer_at_once_and_a_request_does_not_wait_for_the_next_attempt(
    sleeping: Sleeping, autojump_clock: MockClock, step: str, error: Exception
) -> None:
    sleeping.script.phases[step] = [error]
    sleeping.start()
    await trio.sleep(1.0)
    with trio.fail_after(0.1):
        words, code = await answer(sleeping)
        assert code is Code.FAILED_PRECONDITION
        assert words.startswith("could not put web to sleep: its sleep cannot be managed: ")
        assert TEXT in words
    with trio.fail_after(0.1):
        assert await asked(sleeping) == "STANDBY"


async def test_a_network_that_is_not_there_is_the_answer_too(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("zeropod.shim.pod.PodNetwork", refuse)
    sleeping.start()
    await wait_all_tasks_blocked()
    with trio.fail_after(0.1):
        assert "No such file or directory" in await asked(sleeping)


@pytest.mark.parametrize("change", [Event.PAUSE, Event.EXIT, None])
async def test_what_comes_between_the_request_and_the_attempt_is_the_answer(
    sleeping: Sleeping, autojump_clock: MockClock, change: Event | None
) -> None:
    """A wake is not entirely over yet, so the attempt waits; an exec must not make the request wait for its end."""
    sleeping.script.phases["ready"] = [lasting(20.0)]
    sleeping.start()
    await trio.sleep(1.0)
    words: list[str] = []

    async def ask() -> None:
        with trio.fail_after(30.0):
            words.append(await asked(sleeping))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(1.0)
        if change:
            sleeping.life.happen(change)
            await trio.sleep(40.0)
        else:
            with sleeping.life.inhibit(said("exec 7 is running")):
                await trio.sleep(40.0)
    cause = {Event.PAUSE: "it is paused", Event.EXIT: "it is stopped", None: "exec 7 is running"}[change]
    assert words == [f"could not put web to sleep: {cause}"]
    sleeping.controller.stop()


async def test_a_request_does_not_wait_for_the_next_attempt(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.phases["freeze"] = [CheckpointFailed(said("no"))] * 6
    sleeping.start()
    await trio.sleep(SCALEDOWN + sum(RECHECK[:5]) + 1.0)
    assert sleeping.controller.metrics.checkpoint_errors == 6
    began = trio.current_time()
    assert await asked(sleeping) == "STANDBY"
    assert trio.current_time() - began < 1.0
    assert sleeping.controller.next_attempt_ns == 0


async def test_one_that_is_inhibited_is_not_put_to_sleep(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    with sleeping.life.inhibit(said("exec 7 is running")):
        assert await asked(sleeping) == "cannot put web to sleep: exec 7 is running"


async def test_one_that_ends_meanwhile_is_not_waited_for(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.script.phases["freeze"] = [trio.sleep_forever]
    sleeping.start()

    async def end() -> None:
        await trio.sleep(5.0)
        reach(sleeping.life, State.STOPPED)
        sleeping.controller.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        assert await asked(sleeping) == "could not put web to sleep: it is stopped"


async def test_without_room_it_stays_awake_and_tries_again_with_pauses(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["freeze"] = [DiskBudgetExceeded(said("the disk has too little space for it"))] * 3
    sleeping.start()
    await sleeping.asleep()
    await wait_all_tasks_blocked()
    metrics = sleeping.controller.metrics
    assert (metrics.refused_sleeps, metrics.checkpoint_errors, metrics.checkpoints) == (3, 0, 1)
    assert sleeping.script.times("freeze") == [60.0, 61.0, 63.0, 68.0]


@pytest.fixture
def dry(sleeping: Sleeping) -> Sleeping:
    sleeping.container.settings = replace(sleeping.container.settings, dry_run=True)
    return sleeping


async def test_a_dry_run_counts_and_does_nothing(dry: Sleeping, autojump_clock: MockClock) -> None:
    dry.start()
    metrics = dry.controller.metrics
    await trio.sleep(SCALEDOWN - 1)
    assert (metrics.dry_run_sleeps, dry.life.pretended) == (0, None)
    await trio.sleep(2)
    assert (metrics.dry_run_sleeps, metrics.dry_run_wakes, dry.life.pretended) == (1, 0, State.STANDBY)
    assert "dry run: it would sleep since" in dry.life.why
    await trio.sleep(10 * SCALEDOWN)
    assert (metrics.dry_run_sleeps, metrics.dry_run_wakes) == (1, 0)
    assert (dry.life.state, dry.script.times("freeze"), metrics.checkpoints) == (State.RUNNING, [], 0)


# At no moment that is a multiple of the scale-down duration: which comes first is then a matter of chance.
@given(st.lists(st.integers(0, 300).map(lambda seconds: seconds + 0.37), max_size=8))
@settings(max_examples=50)
def test_a_dry_run_counts_what_would_have_been(pauses: list[float]) -> None:
    """Real sleeps and wakes are those of the same connections at the same times, without a dry run."""

    async def counts(directory: str, dry_run: bool) -> tuple[int, int]:
        with pytest.MonkeyPatch.context() as patch:
            async with trio.open_nursery() as nursery:
                network = FakeNetwork("/proc/self/ns/net")
                given = Settings(scaledown=SCALEDOWN, ports=frozenset({PORT}), dry_run=dry_run)
                made = stage(patch, World.make(Path(directory), nursery, given), network)
                made.start()
                for pause in pauses:
                    await trio.sleep(pause)
                    network.connect(PORT)
                    if made.life.state is State.STANDBY:
                        made.script.arrive()
                await trio.sleep(0.005)
                # A dry run hears of it at its next look.
                await trio.sleep(SCALEDOWN - 0.01)
                metrics = made.controller.metrics
                nursery.cancel_scope.cancel()
        return (metrics.dry_run_sleeps, metrics.dry_run_wakes) if dry_run else (metrics.checkpoints, metrics.restores)

    with tempfile.TemporaryDirectory() as directory:
        real = trio.run(counts, directory, False, clock=MockClock(autojump_threshold=0))
        dry = trio.run(counts, directory, True, clock=MockClock(autojump_threshold=0))
    assert dry == real


async def test_what_would_wake_it_does_so_in_a_dry_run_at_once(dry: Sleeping, autojump_clock: MockClock) -> None:
    dry.start()
    await trio.sleep(SCALEDOWN + 1)
    for request, wakes in ((Request.EXEC, 0), (Request.STATS, 0), (Request.SESSION, 1)):
        async with dry.container.allowed(request):
            pass
        await wait_all_tasks_blocked()
        assert dry.controller.metrics.dry_run_wakes == wakes, request
    assert dry.life.pretended is None


async def test_a_dry_run_cannot_be_told_to_sleep(dry: Sleeping, autojump_clock: MockClock) -> None:
    dry.start()
    assert "dry run" in await asked(dry)
