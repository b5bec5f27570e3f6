"""When a container sleeps and wakes, in virtual time; how it does so is a fake's."""

import errno
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.shim.fakes import FakeNetwork, World, now
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.rpc.messages import events_pb2, status_pb2
from zeropod.rpc.status import RpcError
from zeropod.shim.idle_watch import LISTENING, LOOK, WORKING
from zeropod.shim.lifecycle import Event, Request, State
from zeropod.shim.room import NoRoom
from zeropod.shim.settings import Settings
from zeropod.shim.sleeper import LONGEST_DOZE, RECHECK, Sleeper
from zeropod.shim.status import StatusService
from zeropod.shim.way import Lost, SleepFailed, StillBusy, killed

PORT = 8080
SCALEDOWN = 60.0
PATIENCE = 100_000.0
"""Virtual seconds after which what a test waits for will not come any more."""

Phase = Callable[[], Awaitable[None]]


class FakeWay:
    """Goes to sleep and wakes at once, unless a test has said otherwise for one of its steps."""

    why_cold = why_awake = ""
    still_since = 0.0
    answered = 0
    image_bytes = 0

    def __init__(self) -> None:
        self.lies_down = [State.STANDBY]
        """Where it gets to after a doze; the last one for all further ones."""
        self.cannot_doze: OSError | None = None
        self.depth = State.COLD
        """How deep it sleeps."""
        self.happens = Event.CONNECTION
        """What it is that wants it."""
        self.steps: list[tuple[str, float]] = []
        self.script: dict[str, list[Phase]] = {}
        """What the next calls of a step do, one after the other; then they do what they always do."""
        self.wanted = trio.Event()
        self.abandoned = 0
        self.waits_for: list[bool] = []
        """Whether others have the turns, at each look."""

    def times(self, step: str) -> list[float]:
        return [round(at, 6) for name, at in self.steps if name == step]

    async def _step(self, name: str, default: Phase = trio.lowlevel.checkpoint) -> None:
        self.steps.append((name, trio.current_time()))
        script = self.script.get(name)
        await (script.pop(0) if script else default)()

    async def ready(self) -> None:
        await self._step("ready")

    def may_begin(self) -> bool:
        return not self.waits_for.pop(0) if self.waits_for else True

    async def turn(self) -> None:
        await self._step("turn")

    async def pass_probes(self) -> None:
        await self._step("pass_probes")

    async def sleep(self) -> State:
        await self._step("sleep")
        return self.depth

    def events(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        return (self._event,)

    async def _event(self) -> Event:
        await self._step("event", self.wanted.wait)
        return self.happens

    async def cool(self) -> State:
        self.wanted = trio.Event()
        await self._step("cool")
        return State.COLD

    def doze(self) -> None:
        self.wanted = trio.Event()
        self.steps.append(("doze", trio.current_time()))
        if self.cannot_doze:
            raise self.cannot_doze

    async def dozed(self) -> None:
        await self._step("dozed")

    async def lie_down(self) -> State:
        await self._step("lie_down")
        return self.lies_down.pop(0) if len(self.lies_down) > 1 else self.lies_down[0]

    def hurry(self) -> None:
        self.steps.append(("hurry", trio.current_time()))

    async def wake(self) -> None:
        self.wanted = trio.Event()
        await self._step("wake")

    def abandon(self) -> None:
        self.abandoned += 1


def failing(error: Exception) -> Phase:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    return fail


def lasting(seconds: float) -> Phase:
    async def last() -> None:
        await trio.sleep(seconds)

    return last


class Sleeping:
    """A running container with its sleeper at work."""

    def __init__(self, world: World, network: FakeNetwork) -> None:
        self.world = world
        self.container = world.container
        self.life = world.container.life
        self.network = network
        self.way = FakeWay()
        self.ended = trio.Event()
        self.sleeper = Sleeper(self.container, network.path, lambda *_: self.way)
        self.container.sleeper = self.sleeper
        self.life.enter(State.RUNNING)

    async def run(self) -> None:
        await self.sleeper.run()
        self.ended.set()

    def start(self) -> None:
        self.world.host.nursery.start_soon(self.run)

    async def become(self, state: State) -> None:
        with trio.fail_after(PATIENCE):
            while self.life.state is not state:
                await self.life.changed()

    async def asleep(self) -> None:
        await self.become(State.COLD)

    async def awake(self) -> None:
        await self.become(State.RUNNING)

    async def over(self) -> None:
        with trio.fail_after(PATIENCE):
            await self.ended.wait()


@pytest.fixture
async def sleeping(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Sleeping:
    settings = Settings(scaledown=SCALEDOWN, ports=frozenset({PORT}))
    return stage(monkeypatch, World.make(tmp_path, nursery, settings), FakeNetwork("/proc/self/ns/net"))


def stage(monkeypatch: pytest.MonkeyPatch, world: World, network: FakeNetwork) -> Sleeping:
    """In virtual time."""
    monkeypatch.setattr("zeropod.shim.host.PodNetwork", lambda *_, **__: network)
    virtual = SimpleNamespace(monotonic=trio.current_time, monotonic_ns=now, time_ns=lambda: 1, time=lambda: 43200.0)
    for module in ("sleeper", "idle_watch", "way", "dry_run"):
        monkeypatch.setattr(f"zeropod.shim.{module}.time", virtual)
    return Sleeping(world, network)


# Falling asleep


async def test_without_activity_it_sleeps_after_the_scaledown_duration(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == [SCALEDOWN]
    assert sleeping.sleeper.tally.checkpoints == 1


async def test_a_connection_postpones_the_sleep_by_the_whole_duration(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    for pause in (59.0, 59.5, 10.0):
        await trio.sleep(pause)
        sleeping.network.connect(PORT)
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == [59.0 + 59.5 + 10.0 + SCALEDOWN]


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
    assert sleeping.way.times("sleep") == [SCALEDOWN + SCALEDOWN - 10.0]


async def test_who_waits_for_a_turn_runs_on_and_is_looked_at_again_afterwards(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    async def others_fall_asleep() -> None:
        assert sleeping.life.state is State.RUNNING
        assert "turn" in sleeping.life.why
        await trio.sleep(5.0)
        sleeping.network.connect(PORT)  # it has been used meanwhile: a turn is of no use now

    sleeping.way.waits_for = [True]
    sleeping.way.script["turn"] = [others_fall_asleep]
    sleeping.start()
    await sleeping.asleep()
    assert sleeping.way.times("turn") == [SCALEDOWN]
    assert sleeping.way.times("sleep") == [SCALEDOWN + 5.0 + SCALEDOWN]


async def test_a_stop_ends_the_wait_for_a_turn(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.waits_for = [True]
    sleeping.way.script["turn"] = [trio.sleep_forever]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1.0)
    sleeping.sleeper.stop()
    await sleeping.over()
    assert sleeping.way.times("sleep") == []
    assert sleeping.way.abandoned == 1


async def test_after_a_wake_the_kernel_is_not_asked_before_it_could_sleep_again(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.asleep()
    looks = sleeping.network.looks
    sleeping.way.wanted.set()
    await sleeping.awake()
    await trio.sleep(SCALEDOWN - 1.0)
    assert sleeping.network.looks == looks
    assert "sleeps 60 s after that" in sleeping.life.why
    await sleeping.asleep()
    assert sleeping.network.looks == looks + 1
    assert sleeping.way.times("sleep") == [SCALEDOWN, SCALEDOWN + SCALEDOWN]


class Work:
    """Stands in for a life of the container: uses so much of one CPU, from the beginning of time."""

    def __init__(self, share: float, busy: Iterable[bool] = ()) -> None:
        self.share = share
        self.cgroup = self
        self.glances = itertools.cycle([*busy] or [False])

    def busy(self) -> bool:
        return next(self.glances)

    def cpu_seconds(self) -> float:
        return self.share * trio.current_time()

    def socket_inodes(self) -> frozenset[int]:
        return frozenset()

    def pids(self) -> list[int]:
        return []


REQUEST = connected(received_ms=61_000, sent_ms=70_000)


async def test_a_request_that_it_works_on_is_not_put_to_sleep(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(share=0.5)
    monkeypatch.setattr(sleeping.container, "incarnation", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(10 * SCALEDOWN)
    assert sleeping.way.times("sleep") == []
    assert sleeping.life.why == "it works on the answer to a request"
    work.share = 0.0
    await sleeping.asleep()


@pytest.mark.parametrize(
    ("share", "sock"), [(WORKING / 2, REQUEST), (1.0, connected(received_ms=70_000, sent_ms=61_000))]
)
async def test_one_that_waits_or_has_answered_sleeps(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, share: float, sock: TcpSocket
) -> None:
    monkeypatch.setattr(sleeping.container, "incarnation", Work(share))
    sleeping.network.sockets = [sock]
    sleeping.start()
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == pytest.approx([SCALEDOWN], abs=2 * LOOK)


async def test_a_request_is_not_put_to_sleep_because_it_gets_little_of_the_cpu(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(WORKING / 2, busy=(True, False, True, True, False))
    monkeypatch.setattr(sleeping.container, "incarnation", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(10 * SCALEDOWN)
    assert sleeping.way.times("sleep") == []
    work.glances = itertools.cycle([False, True, False, False, True])
    await sleeping.asleep()


async def test_an_exec_that_starts_while_its_work_is_looked_at_holds_it_awake(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(share=0.5)
    monkeypatch.setattr(sleeping.container, "incarnation", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(SCALEDOWN + LOOK / 2)
    work.share = 0.0
    with sleeping.life.kept_awake("exec 7 is running"):
        await trio.sleep(2 * SCALEDOWN)
        assert sleeping.way.times("sleep") == []


async def test_a_container_that_is_paused_while_its_work_is_looked_at_stays_so(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(share=0.5)
    monkeypatch.setattr(sleeping.container, "incarnation", work)
    sleeping.network.sockets = [REQUEST]
    sleeping.start()
    await trio.sleep(SCALEDOWN + LOOK / 2)
    work.share = 0.0
    sleeping.life.enter(State.PAUSED)
    await trio.sleep(2 * SCALEDOWN)
    assert (sleeping.life.state, sleeping.way.times("sleep")) == (State.PAUSED, [])


async def test_a_connection_to_another_port_does_not_count(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(30.0)
    sleeping.network.connect(PORT + 1)
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == [SCALEDOWN]


async def test_it_sleeps_no_sooner_than_the_duration_after_it_was_found_to_listen(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = sleeping.container
    container.settings = Settings(scaledown=SCALEDOWN)
    monkeypatch.setattr(container, "incarnation", Work(share=0.0))
    sleeping.start()
    await trio.sleep(200.0)
    assert sleeping.way.times("sleep") == []
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

    container = sleeping.container
    container.settings = Settings(scaledown=SCALEDOWN)
    monkeypatch.setattr(container, "incarnation", Work(share=0.0))
    monkeypatch.setattr(sleeping.network, "listening_ports", listening_ports)
    sleeping.start()
    await trio.sleep(sum(LISTENING) + 2 * LISTENING[-1] + 1.0)
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert pauses == pytest.approx([*LISTENING, LISTENING[-1], LISTENING[-1]])


async def test_what_holds_it_awake_is_waited_for_and_named(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    with sleeping.life.kept_awake("exec 7 is running"):
        await trio.sleep(500.0)
        assert sleeping.life.why == "exec 7 is running"
        assert sleeping.way.times("sleep") == []
    await sleeping.asleep()


async def test_a_paused_container_does_not_sleep(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    sleeping.life.enter(State.PAUSED)
    await trio.sleep(500.0)
    assert sleeping.way.times("sleep") == []
    assert sleeping.life.why == "paused"
    sleeping.life.enter(State.RUNNING)
    await sleeping.asleep()


async def test_why_it_is_awake_is_said_in_words(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    assert sleeping.life.why == "last active at 12:00:00 UTC, sleeps 60 s after that"


async def test_one_that_uses_what_cannot_be_dumped_stays_awake_until_it_does_not(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["io_uring", "io_uring"]
    monkeypatch.setattr(sleeping.container, "incarnation", Work(share=0.0))
    monkeypatch.setattr("zeropod.shim.idle_watch.undumpable.found", lambda pids: kinds.pop() if kinds else "")
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1)
    assert (sleeping.life.state, sleeping.life.why) == (State.RUNNING, "it uses io_uring, which CRIU cannot dump")
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == [SCALEDOWN + 20]


async def test_one_that_is_busy_after_all_goes_on_and_is_tried_again(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    async def busy() -> None:
        sleeping.network.connect(PORT)
        await trio.lowlevel.checkpoint()
        raise StillBusy("a connection came at the last moment")

    sleeping.way.script["sleep"] = [busy]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 0.1)
    assert (sleeping.life.state, sleeping.life.why) == (State.RUNNING, "a connection came at the last moment")
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == pytest.approx([SCALEDOWN, 2 * SCALEDOWN], abs=0.1)
    assert sleeping.sleeper.tally.checkpoint_errors == 0
    assert sleeping.life.message == ""


async def test_while_it_falls_asleep_its_state_says_so(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.script["sleep"] = [lasting(2.0)]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1.0)
    assert sleeping.life.state is State.CHECKPOINTING
    await sleeping.asleep()
    assert sleeping.sleeper.tally.last_checkpoint == pytest.approx(2.0)


# Failed attempts


async def test_after_a_failed_checkpoint_it_goes_on_and_says_why(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.script["sleep"] = [failing(SleepFailed("its checkpoint failed: no space"))]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 0.5)
    life = sleeping.life
    assert (life.state, life.why, life.message) == (State.RUNNING, *["its checkpoint failed: no space"] * 2)
    assert sleeping.sleeper.tally.checkpoint_errors == 1


async def test_failed_checkpoints_are_tried_again_after_longer_and_longer_pauses(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.container.settings = Settings(scaledown=0.01, ports=frozenset({PORT}))
    sleeping.way.script["sleep"] = [failing(SleepFailed("no space"))] * 8
    sleeping.start()
    await sleeping.asleep()
    times = sleeping.way.times("sleep")
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == pytest.approx([*RECHECK, RECHECK[-1], RECHECK[-1]], abs=0.02)
    assert (sleeping.sleeper.tally.checkpoint_errors, sleeping.sleeper.tally.checkpoints) == (8, 1)


async def test_a_checkpoint_that_works_ends_the_pauses(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.container.settings = Settings(scaledown=0.01, ports=frozenset({PORT}))
    failed = failing(SleepFailed("no space"))
    sleeping.way.script["sleep"] = [failed, failed, failed, trio.lowlevel.checkpoint, failed]
    sleeping.start()
    await sleeping.asleep()
    sleeping.way.wanted.set()
    await sleeping.awake()
    await sleeping.asleep()
    fifth, sixth = sleeping.way.times("sleep")[-2:]
    assert sixth - fifth == pytest.approx(RECHECK[0], abs=0.02)


# Waking


async def test_a_connection_wakes_it(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.script["wake"] = [lasting(0.25)]
    sleeping.start()
    await sleeping.asleep()
    await trio.sleep(1000.0)
    sleeping.way.wanted.set()
    await wait_all_tasks_blocked()
    assert sleeping.life.state is State.RESTORING
    await sleeping.awake()
    assert sleeping.way.times("wake") == [SCALEDOWN + 1000.0]
    assert sleeping.sleeper.tally.last_restore == pytest.approx(0.25)
    assert sleeping.sleeper.tally.restores == 1


async def test_a_request_wakes_it(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await sleeping.asleep()
    sleeping.life.wake_wanted.set()
    await sleeping.awake()
    assert sleeping.way.times("wake") == [SCALEDOWN]


async def test_a_request_that_comes_while_it_falls_asleep_wakes_it_at_once(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    async def wanted_meanwhile() -> None:
        sleeping.life.wake_wanted.set()
        await trio.sleep(1.0)

    sleeping.way.script["sleep"] = [wanted_meanwhile]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 2.0)
    assert sleeping.way.times("wake") == [SCALEDOWN + 1.0]


async def test_a_container_in_standby_is_woken_the_same_way(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.depth = State.STANDBY
    sleeping.start()
    await sleeping.become(State.STANDBY)
    sleeping.way.happens = Event.DATA
    sleeping.way.wanted.set()
    await sleeping.awake()
    assert sleeping.sleeper.tally.restores == 1


@pytest.mark.parametrize(
    ("event", "steps"),
    [
        (Event.CONNECTION, ["hurry", "wake"]),
        (Event.DATA, ["hurry", "wake"]),
        (Event.PROBE, ["doze"]),
        (Event.STANDBY_OVER, ["cool"]),
        (Event.PAGER_LOST, ["cool"]),
    ],
)
async def test_it_runs_before_anything_else_is_done_about_who_has_come_and_only_then(
    sleeping: Sleeping, autojump_clock: MockClock, event: Event, steps: list[str]
) -> None:
    sleeping.way.depth, sleeping.way.happens = State.STANDBY, event
    sleeping.start()
    await sleeping.become(State.STANDBY)
    seen = len(sleeping.way.steps)
    sleeping.way.wanted.set()
    await trio.testing.wait_all_tasks_blocked()
    assert [step for step, _ in sleeping.way.steps[seen:] if step in ("hurry", "wake", "doze", "cool")] == steps


@pytest.mark.parametrize("event", [Event.STANDBY_OVER, Event.PAGER_LOST])
async def test_from_standby_it_goes_to_the_disk_and_wakes_from_there(
    sleeping: Sleeping, autojump_clock: MockClock, event: Event
) -> None:
    sleeping.way.depth = State.STANDBY
    sleeping.way.happens = event
    sleeping.start()
    await sleeping.become(State.STANDBY)
    sleeping.way.wanted.set()
    await sleeping.become(State.COLD)
    sleeping.way.happens = Event.CONNECTION
    sleeping.way.wanted.set()
    await sleeping.awake()
    steps = [name for name, _ in sleeping.way.steps if name != "event"]
    assert steps[:6] == ["ready", "pass_probes", "sleep", "cool", "hurry", "wake"]


async def test_what_wants_it_while_it_leaves_standby_wakes_it_from_the_disk(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    async def interrupted() -> None:
        sleeping.life.wake_wanted.set()
        await trio.sleep(1)

    sleeping.way.depth = State.STANDBY
    sleeping.way.happens = Event.STANDBY_OVER
    sleeping.way.script["cool"] = [interrupted]
    sleeping.start()
    await sleeping.become(State.STANDBY)
    sleeping.way.wanted.set()
    await sleeping.awake()
    assert [name for name, _ in sleeping.way.steps][-1] != "cool"
    assert sleeping.sleeper.tally.restores == 1


async def test_one_that_can_not_leave_standby_is_awake_and_says_why(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.way.depth = State.STANDBY
    sleeping.way.happens = Event.STANDBY_OVER
    sleeping.way.script["cool"] = [failing(SleepFailed("no descriptors"))]
    sleeping.start()
    await sleeping.become(State.STANDBY)
    sleeping.way.wanted.set()
    await sleeping.awake()
    assert sleeping.life.message == "no descriptors"
    await sleeping.become(State.STANDBY)


async def test_why_it_sleeps_without_standby_is_said_in_words(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.why_cold = "no standby: 200 MiB would stay"
    sleeping.start()
    await sleeping.asleep()
    assert sleeping.life.why == "no standby: 200 MiB would stay"


async def test_it_sleeps_again_after_the_whole_duration(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    for _ in range(3):
        await sleeping.asleep()
        await trio.sleep(10.0)
        sleeping.way.wanted.set()
        await sleeping.awake()
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == [60.0, 130.0, 200.0, 270.0]


async def test_it_does_not_sleep_again_before_the_last_wake_is_over(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.way.script["ready"] = [trio.lowlevel.checkpoint, lasting(300.0)]
    sleeping.start()
    await sleeping.asleep()
    sleeping.way.wanted.set()
    await sleeping.awake()
    await sleeping.asleep()
    assert sleeping.way.times("sleep") == [60.0, 60.0 + 300.0]


# The end


def the_exit(sleeping: Sleeping) -> events_pb2.TaskExit:
    [event] = sleeping.world.events.events
    assert isinstance(event, events_pb2.TaskExit)
    return event


async def test_one_that_cannot_be_woken_is_reported_as_killed(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.container.init.pid = 4711
    sleeping.way.script["wake"] = [failing(Lost("the image is damaged", killed(4711)))]
    sleeping.start()
    await sleeping.asleep()
    sleeping.way.wanted.set()
    await sleeping.over()
    assert sleeping.life.state is State.STOPPED
    assert sleeping.life.message == "the image is damaged"
    assert (the_exit(sleeping).pid, the_exit(sleeping).exit_status) == (4711, 137)
    assert sleeping.container.init.exited.is_set()
    assert (sleeping.way.abandoned, sleeping.sleeper.tally.restore_errors) == (1, 1)


@pytest.mark.parametrize("step", ["ready", "sleep", "event"])
async def test_one_that_is_lost_in_any_other_step_is_reported_too(
    sleeping: Sleeping, autojump_clock: MockClock, step: str
) -> None:
    sleeping.way.script[step] = [failing(Lost("its pager died", killed(1)))]
    sleeping.start()
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137
    assert sleeping.way.abandoned == 1


@pytest.mark.parametrize("steps", [["wake"], ["event", "wake"]])
async def test_a_system_that_fails_a_container_that_is_to_wake_ends_it(
    sleeping: Sleeping, autojump_clock: MockClock, steps: list[str]
) -> None:
    for step in steps:
        sleeping.way.script[step] = [failing(OSError("no such device"))]
    sleeping.way.wanted.set()
    sleeping.start()
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 137
    assert sleeping.life.message == "cannot be woken: no such device"
    assert sleeping.way.abandoned == 1


async def test_a_system_that_fails_an_awake_container_leaves_it_alone_for_ever(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> list[TcpSocket]:
        raise OSError("no such device")

    monkeypatch.setattr(sleeping.network, "counting", refuse)
    sleeping.start()
    await sleeping.over()
    assert sleeping.life.state is State.RUNNING
    assert sleeping.life.why == "its sleep cannot be managed: no such device"
    assert sleeping.world.events.events == []
    assert (sleeping.way.abandoned, sleeping.network.closed) == (1, 1)


async def test_without_its_network_it_stays_awake(
    sleeping: Sleeping, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: object, **__: object) -> FakeNetwork:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr("zeropod.shim.host.PodNetwork", refuse)
    sleeping.start()
    await sleeping.over()
    assert sleeping.life.state is State.RUNNING
    assert "its sleep cannot be managed" in sleeping.life.why
    assert sleeping.way.steps == []


@pytest.mark.parametrize("step", ["ready", "sleep", "event", "wake"])
async def test_it_can_be_stopped_in_every_step(sleeping: Sleeping, autojump_clock: MockClock, step: str) -> None:
    sleeping.way.script[step] = [trio.sleep_forever]
    if step == "wake":
        sleeping.way.wanted.set()
    sleeping.start()
    await trio.sleep(2 * SCALEDOWN)
    assert sleeping.way.steps[-1][0] == step
    sleeping.sleeper.stop()
    await sleeping.over()
    assert (sleeping.way.abandoned, sleeping.network.closed) == (1, 1)
    assert sleeping.world.events.events == []


@pytest.mark.parametrize("hold", [True, False])
async def test_it_can_be_stopped_while_the_container_is_awake(
    sleeping: Sleeping, autojump_clock: MockClock, hold: bool
) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    if hold:
        with sleeping.life.kept_awake("exec"):
            await trio.sleep(2 * SCALEDOWN)
            sleeping.sleeper.stop()
            await sleeping.over()
    else:
        sleeping.sleeper.stop()
        await sleeping.over()
    assert (sleeping.way.abandoned, sleeping.network.closed) == (1, 1)


async def test_it_can_be_stopped_between_two_failed_attempts(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.script["sleep"] = [failing(SleepFailed("no space"))]
    sleeping.start()
    await trio.sleep(SCALEDOWN + RECHECK[0] / 2)
    sleeping.sleeper.stop()
    await sleeping.over()
    assert sleeping.way.abandoned == 1


async def test_one_that_was_stopped_before_its_task_began_does_nothing(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.sleeper.stop()
    sleeping.start()
    await sleeping.over()
    assert sleeping.way.times("sleep") == []


async def test_what_its_way_leaves_running_ends_with_the_container(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    ended = trio.Event()

    async def proxied() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def way(container: object, network: object, nursery: trio.Nursery) -> FakeWay:
        nursery.start_soon(proxied)
        return sleeping.way

    sleeping.sleeper = Sleeper(sleeping.container, sleeping.network.path, way)
    sleeping.start()
    await sleeping.asleep()
    assert not ended.is_set()
    sleeping.sleeper.stop()
    await sleeping.over()
    assert ended.is_set()


async def test_the_network_is_shared_with_the_other_containers_of_the_pod(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    host = sleeping.world.host
    with host.network(sleeping.network.path) as network:
        sleeping.start()
        await sleeping.asleep()
        sleeping.sleeper.stop()
        await sleeping.over()
        assert network is sleeping.network  # type: ignore[comparison-overlap]  # it stands in for a PodNetwork
        assert sleeping.network.closed == 0
    assert sleeping.network.closed == 1


# Dozing


@pytest.fixture
async def standing_by(sleeping: Sleeping) -> Sleeping:
    sleeping.way.depth = State.STANDBY
    sleeping.start()
    await sleeping.become(State.STANDBY)
    sleeping.way.happens = Event.PROBE
    return sleeping


async def test_a_probe_makes_it_doze_and_is_no_wake(standing_by: Sleeping, autojump_clock: MockClock) -> None:
    standing_by.way.script["dozed"] = [lasting(3.0)]
    for _ in range(2):
        standing_by.way.wanted.set()
        await standing_by.become(State.DOZING)
        await standing_by.become(State.STANDBY)
    assert (standing_by.sleeper.tally.dozes, standing_by.sleeper.tally.restores) == (2, 0)
    assert standing_by.way.times("wake") == []


async def test_an_exec_keeps_it_dozing_until_it_has_ended(standing_by: Sleeping, autojump_clock: MockClock) -> None:
    async with standing_by.container.allowed(Request.EXEC):
        assert standing_by.life.state is State.DOZING
        await trio.sleep(5)
        assert standing_by.life.state is State.DOZING
    await standing_by.become(State.STANDBY)
    assert standing_by.sleeper.tally.restores == 0


@pytest.mark.parametrize("later", range(6))
async def test_an_exec_that_comes_as_another_ends_finds_it_running_until_its_own_end(
    standing_by: Sleeping, autojump_clock: MockClock, later: int
) -> None:
    async def after_the_other() -> None:
        while standing_by.life.held_by:
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
        await standing_by.become(State.STANDBY)


@pytest.mark.parametrize("request_", [Request.SIGNAL, Request.SESSION, Request.PAUSE])
async def test_what_needs_more_than_a_doze_gets_it(
    standing_by: Sleeping, autojump_clock: MockClock, request_: Request
) -> None:
    standing_by.way.script["dozed"] = [trio.sleep_forever]
    standing_by.way.wanted.set()
    await standing_by.become(State.DOZING)
    with trio.fail_after(1):
        async with standing_by.container.allowed(request_):
            assert standing_by.life.state is State.RUNNING


async def test_a_doze_that_lasts_becomes_a_wake(standing_by: Sleeping, autojump_clock: MockClock) -> None:
    standing_by.way.script["dozed"] = [trio.sleep_forever]
    standing_by.way.wanted.set()
    await standing_by.become(State.DOZING)
    dozing_since = trio.current_time()
    await standing_by.awake()
    assert trio.current_time() - dozing_since == pytest.approx(LONGEST_DOZE)
    assert standing_by.sleeper.tally.restores == 1


@pytest.mark.parametrize(("where", "step"), [(State.RUNNING, "wake"), (State.COLD, "cool")])
async def test_who_uses_it_while_it_dozes_wakes_it_and_what_does_not_fit_goes_to_disk(
    standing_by: Sleeping, autojump_clock: MockClock, where: State, step: str
) -> None:
    standing_by.way.lies_down = [where]
    standing_by.way.wanted.set()
    await standing_by.become(where)
    assert len(standing_by.way.times(step)) == 1


async def test_a_probe_that_comes_while_it_lies_down_has_it_doze_on(
    standing_by: Sleeping, autojump_clock: MockClock
) -> None:
    standing_by.way.lies_down = [State.DOZING, State.STANDBY]
    standing_by.way.wanted.set()
    await standing_by.become(State.DOZING)
    await standing_by.become(State.STANDBY)
    assert len(standing_by.way.times("doze")) == 2
    assert standing_by.sleeper.tally.dozes == 1


@pytest.mark.parametrize("step", ["doze", "dozed", "lie_down"])
async def test_a_doze_that_cannot_be_followed_is_a_wake_and_no_loss(
    standing_by: Sleeping, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    error = OSError(errno.ENOBUFS, "the kernel does not say who is there")
    if step == "doze":
        standing_by.way.cannot_doze = error
    else:
        standing_by.way.script[step] = [failing(error)]
    standing_by.way.wanted.set()
    await standing_by.awake()
    assert len(standing_by.way.times("wake")) == 1
    assert standing_by.life.state is State.RUNNING
    assert "does not say who is there" in caplog.text


@pytest.mark.parametrize("depth", [State.STANDBY, State.COLD])
async def test_one_that_cannot_be_watched_any_more_is_woken_and_not_lost(
    sleeping: Sleeping, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, depth: State
) -> None:
    sleeping.way.depth = depth
    sleeping.way.script["event"] = [failing(OSError(errno.ENOBUFS, "the kernel does not say what comes"))]
    sleeping.start()
    await sleeping.become(depth)
    await sleeping.awake()
    assert len(sleeping.way.times("wake")) == 1
    assert "the kernel does not say what comes" in caplog.text
    await sleeping.become(depth)


# Together with the container


async def test_an_exec_that_comes_while_it_is_asked_how_it_is_keeps_it_awake(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.way.script["pass_probes"] = [lasting(5.0)]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1.0)
    with trio.fail_after(1.0):
        async with sleeping.container.allowed(Request.EXEC):
            await trio.lowlevel.checkpoint()
    async with sleeping.container.allowed(Request.EXEC):
        await trio.sleep(100.0)
        assert sleeping.way.times("sleep") == []
    await sleeping.asleep()


async def test_a_sleeping_container_that_is_killed_ends_without_waking(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await sleeping.asleep()
    await sleeping.container.kill(15, everyone=False)
    await sleeping.over()
    assert the_exit(sleeping).exit_status == 143
    assert sleeping.way.times("wake") == []
    assert sleeping.way.abandoned == 1


async def test_a_kill_during_a_checkpoint_ends_the_container_once_it_is_over(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.way.script["sleep"] = [lasting(3.0)]
    sleeping.start()
    await trio.sleep(SCALEDOWN + 1.0)
    await sleeping.container.kill(9, everyone=False)
    assert trio.current_time() == pytest.approx(SCALEDOWN + 3.0)
    assert the_exit(sleeping).exit_status == 137
    assert sleeping.way.times("wake") == []


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


async def asked(sleeping: Sleeping) -> str:
    """What `zeropod sleep` answers: a state, or why not."""
    try:
        status = await StatusService(sleeping.world.host).sleep(status_pb2.SleepRequest(id=sleeping.container.id))
    except RpcError as error:
        return error.message
    return status_pb2.State.Name(status.state)


async def test_somebody_may_want_it_to_sleep_at_once(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(5.0)
    sleeping.network.connect(PORT)
    assert await asked(sleeping) == "COLD"
    assert sleeping.way.times("sleep") == [5.0]
    assert await asked(sleeping) == "COLD", "it sleeps already"
    assert sleeping.container.quiet_wanted == SCALEDOWN


async def test_it_asks_for_no_idle_time_then(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    wanted: list[float] = []

    async def note() -> None:
        wanted.append(sleeping.container.quiet_wanted)

    sleeping.way.script["sleep"] = [note]
    sleeping.start()
    await asked(sleeping)
    assert wanted == [0.0]


@pytest.mark.parametrize(
    ("error", "errors"), [(StillBusy("a connection came"), 0), (SleepFailed("no"), 1), (NoRoom("max-"), 0)]
)
async def test_who_asked_hears_why_it_does_not_sleep(
    sleeping: Sleeping, autojump_clock: MockClock, error: Exception, errors: int
) -> None:
    sleeping.way.script["sleep"] = [failing(error)]
    sleeping.start()
    assert await asked(sleeping) == f"could not put web to sleep: {error}"
    assert sleeping.life.state is State.RUNNING
    assert sleeping.sleeper.tally.checkpoint_errors == errors
    assert sleeping.sleeper.tally.refused_sleeps == isinstance(error, NoRoom)


async def test_a_request_does_not_wait_for_the_next_attempt(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.script["sleep"] = [failing(SleepFailed("no"))] * 6
    sleeping.start()
    await trio.sleep(SCALEDOWN + sum(RECHECK[:5]) + 1.0)
    assert sleeping.sleeper.tally.checkpoint_errors == 6
    began = trio.current_time()
    assert await asked(sleeping) == "COLD"
    assert trio.current_time() - began < 1.0


async def test_one_that_is_held_awake_is_not_put_to_sleep(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1.0)
    with sleeping.life.kept_awake("exec 7 is running"):
        assert await asked(sleeping) == "cannot put web to sleep: exec 7 is running"


async def test_one_that_ends_meanwhile_is_not_waited_for(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.way.script["sleep"] = [trio.sleep_forever]
    sleeping.start()

    async def end() -> None:
        await trio.sleep(5.0)
        sleeping.life.enter(State.STOPPED)
        sleeping.sleeper.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        assert await asked(sleeping) == "could not put web to sleep: it is stopped"


async def test_without_room_it_stays_awake_and_tries_again_with_pauses(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.way.script["sleep"] = [failing(NoRoom("stays awake to keep the disk from filling up"))] * 3
    sleeping.start()
    await sleeping.asleep()
    tally = sleeping.sleeper.tally
    assert (tally.refused_sleeps, tally.checkpoint_errors, tally.checkpoints) == (3, 0, 1)
    assert sleeping.way.times("sleep") == [60.0, 61.0, 63.0, 68.0]


@pytest.fixture
def dry(sleeping: Sleeping) -> Sleeping:
    sleeping.container.settings = replace(sleeping.container.settings, dry_run=True)
    return sleeping


async def test_a_dry_run_counts_and_does_nothing(dry: Sleeping, autojump_clock: MockClock) -> None:
    dry.start()
    tally = dry.sleeper.tally
    await trio.sleep(SCALEDOWN - 1)
    assert (tally.dry_run_sleeps, dry.life.pretended) == (0, None)
    await trio.sleep(2)
    assert (tally.dry_run_sleeps, tally.dry_run_wakes, dry.life.pretended) == (1, 0, State.STANDBY)
    assert "dry run: it would sleep since" in dry.life.why
    await trio.sleep(10 * SCALEDOWN)
    assert (tally.dry_run_sleeps, tally.dry_run_wakes) == (1, 0)
    assert (dry.life.state, dry.way.times("sleep"), tally.checkpoints) == (State.RUNNING, [], 0)


# At no moment that is a multiple of the scale-down duration: who comes first is then anybody's guess.
@given(st.lists(st.integers(0, 300).map(lambda seconds: seconds + 0.37), max_size=8))
@settings(max_examples=50, deadline=None)
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
                    if made.life.state is State.COLD:
                        made.way.wanted.set()
                await trio.sleep(0.005)
                # A dry run hears of it at its next look.
                await trio.sleep(SCALEDOWN - 0.01)
                tally = made.sleeper.tally
                nursery.cancel_scope.cancel()
        return (tally.dry_run_sleeps, tally.dry_run_wakes) if dry_run else (tally.checkpoints, tally.restores)

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
        assert dry.sleeper.tally.dry_run_wakes == wakes, request
    assert dry.life.pretended is None


async def test_a_dry_run_cannot_be_told_to_sleep(dry: Sleeping, autojump_clock: MockClock) -> None:
    dry.start()
    assert "dry run" in await asked(dry)
