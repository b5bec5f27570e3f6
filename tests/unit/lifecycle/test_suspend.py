"""The order of things in a sleep that keeps everything, and that nothing stays frozen or watched wherever it ends."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.unit.lifecycle.said import said
from tests.unit.shim.states import reach
from trio.testing import MockClock

from zeropod.activator.hold.frozen import Arrived, Pending, Unread
from zeropod.concurrency import GuardedNursery
from zeropod.kernel.lookup import Activity
from zeropod.lifecycle import suspend
from zeropod.lifecycle.cold import cold_sleep, prospect
from zeropod.lifecycle.cold.prospect import AFTER_BUSY, AFTER_FAILURE, EXAMINE_AGAIN
from zeropod.lifecycle.controller import RESCUE
from zeropod.lifecycle.idle import monitor
from zeropod.lifecycle.machine import Event, Life, State
from zeropod.lifecycle.metrics import ContainerMetrics
from zeropod.lifecycle.reasons import Explanation
from zeropod.lifecycle.settings import Settings
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, NotIdle
from zeropod.lifecycle.suspend import SuspendStrategy
from zeropod.runtime.cgroups import CgroupError, FreezeTimeout
from zeropod.runtime.errors import CriuError
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.runtime.memory.backend import MemoryLost, bring_back_within

PORTS = frozenset({80})
MEBIBYTE = 1 << 20


class World:
    """Everything below the strategy: what it was asked for, in order, and what it is to answer or raise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.raises: dict[str, list[BaseException]] = {}
        self.waits: dict[str, list[Callable[[], Awaitable[object]]]] = {}
        self.opened = 0
        """Sets of watched sockets that are not closed."""
        self.frozen = False
        self.intercepted = False
        self.moving = False
        self.memory_out = False
        self.slots = 0
        self.pids = [4, 5]
        self.dead = False
        self.ended_by_itself = trio.Event()
        self.resident = 10 * MEBIBYTE
        self.connections = 0
        self.used = ""
        self.awaited = ""
        self.obstacles: list[list[Obstacle]] = [[]]
        """What each examination finds; the last one for all further ones."""
        self.ready: Arrived | None = None
        self.amounts: dict[int, int] = {}
        self.quiet = 100.0
        self.keeps: Event | None = None
        self.arrived = trio.Event()
        self.probed = trio.Event()
        self.connected = trio.Event()
        self.damage = ""
        self.ran = trio.Event()
        """A move has let something run."""
        self.carried = False
        """Whether the page store keeps what it has over a dump."""

    def did(self, call: str) -> None:
        self.calls.append(call)
        if errors := self.raises.get(call):
            raise errors.pop(0)

    async def does(self, call: str) -> None:
        self.did(call)
        await trio.lowlevel.checkpoint()
        if waits := self.waits.get(call):
            await waits.pop(0)()

    def arrive(self, what: Arrived) -> None:
        self.ready = what
        self.arrived.set()

    def since(self, call: str) -> list[str]:
        """What was done from the last call of this name on."""
        last = len(self.calls) - 1 - self.calls[::-1].index(call)
        return self.calls[last:]


def fakes(world: World) -> dict[str, Any]:
    """Return what stands in for the parts of the strategy, by their names."""

    class FrozenSockets:
        def __init__(self, known: Mapping[int, int] | None = None) -> None:
            self.known = known or {}
            self.is_open = False

        @classmethod
        def take(cls, pids: Sequence[int], *, known_unread: Mapping[int, int]) -> "FrozenSockets":
            world.did("take")
            assert not world.frozen
            assert list(pids) == world.pids
            taken = cls(known_unread)
            taken.is_open = True
            world.opened += 1
            return taken

        def renew(self, pids: Sequence[int]) -> None:
            assert world.frozen
            try:
                world.did("renew")
            except BaseException:
                self.close()
                raise

        def pending(self, _: object) -> Pending:
            world.did("pending")
            new = (Unread(inode, amount, "pipe") for inode, amount in world.amounts.items())
            unknown = tuple(unread for unread in new if self.known.get(unread.inode) != unread.amount)
            return Pending(unknown, dict(world.amounts))

        def ready(self, _: object) -> Arrived | None:
            world.did("ready")
            return world.ready

        async def event(self, _: object) -> Arrived:
            await world.does("event")
            await world.arrived.wait()
            assert world.ready
            return world.ready

        def disregard(self) -> None:
            world.did("disregard")
            world.ready = None

        def close(self) -> None:
            world.opened -= self.is_open
            self.is_open = False

    class Probes:
        answered = 3

        def __init__(self, *_: object) -> None:
            pass

        async def pass_all(self) -> None:
            await world.does("pass_all")

        async def intercept(self, _: object, ports: frozenset[int]) -> None:
            assert not world.frozen
            assert ports == PORTS
            world.intercepted = True
            await world.does("intercept")

        def release(self) -> None:
            world.did("release")
            world.intercepted = False

        def intercept_node(self, *, on: bool) -> None:
            world.did(f"intercept_node {on}")

        def let_through(self) -> None:
            assert not world.frozen
            world.did("let_through")

        async def let_all_through(self) -> None:
            await world.does("let_all_through")

        def hold(self) -> Event | None:
            world.did("hold")
            return world.keeps

        def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
            return (self._connection, self._probe)

        async def _connection(self) -> Event:
            await world.connected.wait()
            return Event.CONNECTION

        async def _probe(self) -> Event:
            await world.probed.wait()
            return Event.PROBE

    class Traffic:
        is_redirected = False

        def __init__(self, *_: object) -> None:
            self.silence = None

        def hand_over(self) -> None:
            world.did("hand_over")

        async def connection(self) -> Event:
            await world.does("traffic")
            await world.connected.wait()
            return Event.CONNECTION

        async def data(self) -> Event:
            await world.arrived.wait()
            return Event.DATA

    class Kept:
        def close(self) -> None:
            world.did("kept.close")

    class Restorer:
        def __init__(self, *_: object) -> None:
            self.kept = Kept()

        async def complete(self) -> None:
            await world.does("complete")

        async def dropped(self) -> None:
            await world.does("dropped")

        async def restore(self, *, lazy: bool, before_it_runs: object) -> None:
            assert bool(before_it_runs) is world.carried
            await world.does(f"restore {lazy}")

        def drain(self) -> None:
            world.did("drain")

        def tidy(self) -> None:
            world.did("tidy")

    class Checkpointer:
        def __init__(self, *_: object) -> None:
            pass

        async def checkpoint(self, *_: object) -> dict[str, object]:
            assert world.frozen
            assert not world.memory_out or world.carried
            await world.does("checkpoint")
            world.frozen = False
            return {"pages-1.img": SimpleNamespace(size=5)}

    class Memory:
        descriptors: frozenset[tuple[int, int]] = frozenset()

        def __init__(self, *_: object) -> None:
            pass

        def begin(self, _: object) -> None:
            assert world.frozen
            world.did("begin")
            world.memory_out = True

        def cut(self) -> None:
            world.did("cut")

        def woke(self) -> None:
            world.did("woke")

        async def moved(self) -> None:
            await world.does("moved")

        async def bring_back(self) -> None:
            await world.does("bring_back")
            world.memory_out = False

        def needed(self, _: object) -> int:
            return world.resident

        async def leave(self, _: object) -> bool:
            await world.does("leave")
            return world.carried

        async def ended(self) -> None:
            await world.does("ended")

        async def ran(self) -> float:
            await world.ran.wait()
            world.ran = trio.Event()
            return 7.0

        async def rejoin(self, _: object) -> None:
            await world.does("rejoin")

        async def lost(self) -> str:
            await world.does("lost")
            return "its pager died"

        async def close(self) -> None:
            await world.does("memory.close")

        def report(self, _: object) -> str:
            return "report"

    class Nap:
        def __init__(self, *_: object) -> None:
            assert world.frozen
            self.awaited: Explanation | None = None

        def begins(self) -> None:
            world.did("begins")
            self.awaited = said(world.awaited) if world.awaited else None

        async def settled(self) -> None:
            await world.does("settled")

        def use(self) -> Explanation | None:
            assert world.frozen
            world.did("use")
            return said(world.used) if world.used else None

    class Baseline:
        def __init__(self, *_: object) -> None:
            pass

        def take(self, *_: object) -> None:
            assert world.frozen
            world.did("baseline")

        def has_connected(self) -> bool:
            world.did("has_connected")
            return world.connections > 0

    class AdmissionSlot:
        def release(self) -> None:
            world.slots -= 1

    class AdmissionSlots:
        def try_acquire(self) -> AdmissionSlot | None:
            world.slots += 1
            return AdmissionSlot()

        async def wait_free(self) -> None:
            raise AssertionError

    def find(_: object, __: object) -> Sequence[Obstacle]:
        world.did("examine")
        return world.obstacles.pop(0) if len(world.obstacles) > 1 else world.obstacles[0]

    def used_since(_: object, __: object, ports: frozenset[int], since: float) -> str:
        assert (ports, since) == (PORTS, 7.0)
        return world.used

    return {
        "used_since": used_since,
        "FrozenSockets": FrozenSockets,
        "Probes": Probes,
        "Traffic": Traffic,
        "Restorer": Restorer,
        "Checkpointer": Checkpointer,
        "StandbyMemory": Memory,
        "Nap": Nap,
        "Baseline": Baseline,
        "AdmissionSlots": AdmissionSlots,
        "terminate": lambda *_: world.does("terminate"),
        "unsupported": SimpleNamespace(Facts=Facts, find=find),
        "let_workers_go_first": lambda *_: world.did("workers first"),
    }


class Facts:
    """Stands in for `unsupported.Facts`."""

    @classmethod
    def of(cls, _: object) -> "Facts":
        return cls()


class Cgroup:
    def __init__(self, world: World) -> None:
        self._world = world

    async def freeze(self, _: float) -> None:
        world = self._world
        try:
            await world.does("freeze")
        except BaseException:
            world.calls.append("thaws itself")
            raise
        world.frozen = True

    def thaw(self) -> None:
        self._world.did("thaw")
        self._world.frozen = False

    def resident_bytes(self) -> int:
        return self._world.resident


class Suspended:
    """A strategy, the container that it is of, and the world below."""

    def __init__(self, nursery: trio.Nursery, settings: Settings) -> None:
        self.world = world = World()
        init_process = SimpleNamespace(
            pid=4,
            cgroup=Cgroup(world),
            pids=lambda: list(world.pids),
            socket_inodes=lambda: frozenset({7}),
            is_dead=lambda: world.dead,
            ended_by_itself=world.ended_by_itself.wait,
        )
        self.life = Life()
        store = SimpleNamespace(
            drop_images=lambda: world.did("drop_images"),
            damage=lambda _: world.damage,
            keep=lambda: self._keep(),
        )
        self.workload: Any = SimpleNamespace(
            settings=settings,
            portable=False,
            life=self.life,
            init_process=init_process,
            init=SimpleNamespace(pid=4),
            store=store,
            spec=SimpleNamespace(content={}),
            metrics=ContainerMetrics(),
            log=logging.LoggerAdapter(logging.getLogger("suspend"), {}),
        )
        self.network: Any = SimpleNamespace(
            listening_ports=lambda _: PORTS,
            activity=lambda _: Activity(0, world.connections),
            counting=list,
            cannot_hand_over="",
        )
        self.tasks = GuardedNursery(nursery)

    def _keep(self) -> str:
        self.world.did("keep image")
        return "/kept"

    def make(self) -> SuspendStrategy:
        strategy = SuspendStrategy(self.workload, self.network, self.tasks)
        reach(self.life, State.CHECKPOINTING)
        return strategy

    @property
    def is_whole(self) -> bool:
        """The container runs, nothing watches it, and probes are its own business."""
        world = self.world
        return (world.frozen, world.opened, world.intercepted, world.slots) == (False, 0, False, 0)


async def inline(function: Callable[..., object], *arguments: object, **_: object) -> object:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


@pytest.fixture
def suspended(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Suspended:
    made = Suspended(nursery, Settings(scaledown=1.0))
    for name, fake in fakes(made.world).items():
        for module in (suspend, cold_sleep, prospect):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, fake)
    monkeypatch.setattr(monitor, "last_activity", lambda *_: time.monotonic_ns() - round(made.world.quiet * 1e9))
    # A thread takes time of which virtual time knows nothing.
    monkeypatch.setattr(trio.to_thread, "run_sync", inline)
    # Of the facts only that they are there is of interest.
    monkeypatch.setattr(prospect, "replace", lambda facts, **_: facts)
    return made


@pytest.fixture
async def asleep(suspended: Suspended) -> SuspendStrategy:
    strategy = suspended.make()
    assert await strategy.freeze() is Event.FROZEN
    suspended.life.happen(Event.FROZEN)
    strategy.move_out()
    return strategy


async def arrival(strategy: SuspendStrategy) -> Event:
    """Return what comes first."""
    found: list[Event] = []

    async def wait(one: Callable[[], Awaitable[Event]]) -> None:
        found.append(await one())
        nursery.cancel_scope.cancel()

    with trio.fail_after(100_000.0):
        async with trio.open_nursery() as nursery:
            for one in strategy.arrivals():
                nursery.start_soon(wait, one)
    return found[0]


# What could not be stopped for a move


async def test_what_ran_during_a_move_and_had_nothing_to_do_sleeps_on(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    with trio.move_on_after(1.0):
        for _ in range(2):
            suspended.world.ran.set()
            with trio.move_on_after(0.1):
                await arrival(asleep)
        assert suspended.world.calls.count("renew") == 3, "what it has opened is watched, too"
        return
    raise AssertionError


async def test_a_connection_that_was_accepted_during_a_move_wakes_it(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    """It is in no queue any more, and its client waits for an answer of a process that is frozen again."""
    world = suspended.world
    world.connections = 1
    world.ran.set()
    assert await arrival(asleep) is Event.CONNECTION


async def test_a_connection_that_was_used_during_a_move_wakes_it(asleep: SuspendStrategy, suspended: Suspended) -> None:
    suspended.world.used = "the connection"
    suspended.world.ran.set()
    assert await arrival(asleep) is Event.DATA


async def test_an_edge_that_is_seen_while_what_is_new_is_watched_is_not_lost(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    suspended.world.ready = Arrived.DATA
    suspended.world.ran.set()
    assert await arrival(asleep) is Event.DATA


# Falling asleep

ORDER = ["moved", "take", "intercept", "freeze", "renew", "pending", "ready", "baseline", "workers first"]


async def test_it_is_watched_before_it_is_frozen_and_looked_at_once_more_afterwards(suspended: Suspended) -> None:
    assert await suspended.make().freeze() is Event.FROZEN
    assert suspended.world.calls == ORDER
    world = suspended.world
    assert (world.frozen, world.opened, world.intercepted) == (True, 1, True)


async def test_memory_is_moved_out_only_once_it_sleeps(asleep: SuspendStrategy, suspended: Suspended) -> None:
    assert suspended.world.calls == [*ORDER, "begin"]


async def test_without_standby_no_memory_is_moved_out(suspended: Suspended) -> None:
    suspended.workload.settings = replace(suspended.workload.settings, standby=False)
    strategy = suspended.make()
    await strategy.freeze()
    strategy.move_out()
    assert "begin" not in suspended.world.calls


@pytest.mark.parametrize("step", ORDER[1:])
@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError("no such thing"), CheckpointFailed),
        (CgroupError("no such thing"), CheckpointFailed),
        (FreezeTimeout("/x", ["no such thing"]), CheckpointFailed),
        (NotIdle(said("no such thing")), NotIdle),
        (ValueError("no such thing"), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
async def test_whatever_fails_on_the_way_it_runs_and_nothing_is_left(
    suspended: Suspended, step: str, error: Exception, becomes: type[Exception]
) -> None:
    suspended.world.raises[step] = [error]
    with pytest.raises(becomes, match="no such thing"):
        await suspended.make().freeze()
    assert suspended.is_whole
    if step in ORDER[ORDER.index("renew") :]:
        assert suspended.world.since(step)[1:] == ["cut", "thaw", "woke", "release"]


@pytest.mark.parametrize("step", ["intercept", "freeze"])
async def test_one_that_is_cancelled_on_the_way_leaves_nothing(
    suspended: Suspended, autojump_clock: MockClock, step: str
) -> None:
    suspended.world.waits[step] = [trio.sleep_forever]
    strategy = suspended.make()
    with trio.move_on_after(1.0) as scope:
        await strategy.freeze()
    assert scope.cancelled_caught
    assert suspended.is_whole
    suspended.world.ready = None
    assert await strategy.freeze() is Event.FROZEN, "and may sleep later"


async def connects(suspended: Suspended) -> None:
    suspended.world.connections += 1


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("connection", "a connection or data came at the last moment"),
        ("data", "a connection or data came at the last moment"),
        ("unread", "it has unread input: 3 in a pipe"),
        ("wanted", "a request came at the last moment"),
        ("inhibited", "exec"),
        ("not quiet", "last active at .* UTC, sleeps 1 s after that"),
    ],
)
async def test_what_came_at_the_last_moment_ends_the_attempt(suspended: Suspended, what: str, words: str) -> None:
    world, life = suspended.world, suspended.life

    async def come() -> None:
        match what:
            case "connection":
                world.connections += 1
            case "data":
                world.ready = Arrived.DATA
            case "unread":
                world.amounts = {9: 3}
            case "wanted":
                life.wake_wanted.set()
            case "inhibited":
                life.inhibit_for_good(said("exec"))
            case "not quiet":
                world.quiet = 0.5

    world.waits["freeze"] = [come]
    with pytest.raises(NotIdle, match=words):
        await suspended.make().freeze()
    assert suspended.is_whole


async def test_what_lies_unread_for_long_does_not_keep_it_awake(suspended: Suspended) -> None:
    strategy = suspended.make()
    suspended.world.amounts = {9: 3}
    with pytest.raises(NotIdle, match="unread input"):
        await strategy.freeze()
    assert await strategy.freeze() is Event.FROZEN
    strategy.thaw()
    strategy.awake()
    suspended.world.amounts = {9: 4}
    with pytest.raises(NotIdle, match="unread input"):
        await strategy.freeze()


# In STANDBY


@pytest.mark.parametrize(("arrived", "event"), [(Arrived.CONNECTION, Event.CONNECTION), (Arrived.DATA, Event.DATA)])
async def test_what_comes_is_told(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock, arrived: Arrived, event: Event
) -> None:
    suspended.world.arrive(arrived)
    assert await arrival(asleep) is event
    assert suspended.world.frozen, "the thaw is the caller's"


@pytest.mark.parametrize(("what", "event"), [("probed", Event.PROBE), ("connected", Event.CONNECTION)])
async def test_what_comes_to_the_interceptor_is_told(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock, what: str, event: Event
) -> None:
    getattr(suspended.world, what).set()
    assert await arrival(asleep) is event


async def test_a_thaw_cuts_the_move_first_and_does_nothing_else(asleep: SuspendStrategy, suspended: Suspended) -> None:
    done = len(suspended.world.calls)
    asleep.thaw()
    assert suspended.world.calls[done:] == ["cut", "thaw"]
    asleep.thaw()
    assert suspended.world.calls[done:] == ["cut", "thaw"], "it runs"
    asleep.awake()
    assert suspended.is_whole
    assert suspended.world.calls[done:] == ["cut", "thaw", "woke", "release"]


async def test_memory_that_is_lost_ends_the_container(asleep: SuspendStrategy, suspended: Suspended) -> None:
    with pytest.raises(ContainerLost, match="has lost a part of its memory: its pager died") as lost:
        await asleep.watch_memory()
    assert suspended.world.calls[-2:] == ["lost", "terminate"]
    assert (lost.value.status.pid, lost.value.status.code) == (4, 137)


async def test_one_that_has_ended_by_itself_is_not_lost(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    suspended.world.dead = True
    with trio.move_on_after(100.0) as scope:
        await asleep.watch_memory()
    assert scope.cancelled_caught
    assert "terminate" not in suspended.world.calls


# A nap


async def test_a_nap_is_a_thaw_with_everything_that_it_is_watched_by(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    world, done = suspended.world, len(suspended.world.calls)
    asleep.nap()
    assert world.calls[done:] == ["intercept_node True", "begins", "cut", "thaw", "let_through"]
    assert (world.frozen, world.opened, world.intercepted) == (False, 1, True)
    assert await asleep.napped() is None
    done = len(world.calls)
    assert await asleep.refreeze() is Event.FROZEN
    order = ["hold", "freeze", "renew", "disregard", "workers first", "intercept_node False"]
    assert world.calls[done:] == [*order, "has_connected", "use", "pending"]
    assert (world.frozen, world.opened, world.intercepted) == (True, 1, True)


async def test_a_connection_that_waits_as_the_nap_begins_is_told_without_a_wait(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    suspended.world.awaited = "a connection waits"
    asleep.nap()
    done = len(suspended.world.calls)
    assert str(await asleep.napped()) == "a connection waits"
    assert suspended.world.calls[done:] == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("wanted", "a connection came from the node"),
        ("connected", "a connection came while it ran for a probe"),
        ("used", "the connection was used"),
        ("unread", "input arrived while it ran for a probe: 3 in a pipe"),
    ],
)
async def test_what_uses_it_during_a_nap_is_told_and_nothing_of_it_is_lost(
    asleep: SuspendStrategy, suspended: Suspended, what: str, words: str
) -> None:
    world = suspended.world
    asleep.nap()
    match what:
        case "wanted":
            world.keeps = Event.CONNECTION
        case "connected":
            world.connections = 1
        case "used":
            world.used = "the connection was used"
        case "unread":
            world.amounts = {9: 3}
    with pytest.raises(NotIdle, match=words):
        await asleep.refreeze()
    assert world.opened == 1, "it is watched until it is awake"
    asleep.thaw()
    asleep.awake()
    assert suspended.is_whole


async def test_another_probe_has_it_nap_on(asleep: SuspendStrategy, suspended: Suspended) -> None:
    world = suspended.world
    asleep.nap()
    world.keeps = Event.PROBE
    assert await asleep.refreeze() is Event.PROBE
    asleep.nap()
    assert not world.frozen
    world.keeps = None
    assert await asleep.refreeze() is Event.FROZEN


@pytest.mark.parametrize("step", ["freeze", "renew", "disregard", "intercept_node False", "has_connected", "use"])
@pytest.mark.parametrize("error", [OSError("no such thing"), CgroupError("no such thing"), ValueError("no such thing")])
async def test_whatever_fails_as_it_is_frozen_again_it_can_be_thawed(
    asleep: SuspendStrategy, suspended: Suspended, step: str, error: Exception
) -> None:
    asleep.nap()
    suspended.world.raises[step] = [error]
    expected = ValueError if isinstance(error, ValueError) else CheckpointFailed
    with pytest.raises(expected, match="no such thing"):
        await asleep.refreeze()
    asleep.thaw()
    asleep.awake()
    assert suspended.is_whole


# On the way to COLD


def on_disk(suspended: Suspended, **settings: Any) -> None:
    suspended.workload.settings = replace(suspended.workload.settings, **settings)


async def test_it_stays_in_standby_for_as_long_as_is_wanted(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    on_disk(suspended, standby_duration=300.0)
    began = trio.current_time()
    assert await arrival(asleep) is Event.STANDBY_OVER
    assert trio.current_time() - began == pytest.approx(300.0)
    assert suspended.world.slots == 1
    asleep.thaw()
    asleep.awake()
    assert suspended.is_whole


async def test_without_a_duration_it_stays_for_ever(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    with pytest.raises(trio.TooSlowError):
        await arrival(asleep)
    assert "examine" not in suspended.world.calls


async def test_without_standby_it_goes_on_at_once(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    on_disk(suspended, standby=False)
    began = trio.current_time()
    assert await arrival(asleep) is Event.STANDBY_OVER
    assert trio.current_time() == began


async def test_more_memory_than_may_stay_sends_it_on_and_that_is_said(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    on_disk(suspended, standby_max_resident=64 * MEBIBYTE)
    suspended.world.resident = 200 * MEBIBYTE
    assert await arrival(asleep) is Event.STANDBY_OVER
    assert str(asleep.why_kept) == "200 MiB stay in memory, standby-max-resident is 64 MiB"


async def test_where_waiting_connections_cannot_be_moved_it_stays_in_standby(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    on_disk(suspended, standby=False)
    suspended.network.cannot_hand_over = "connections cannot be handed over (Read-only file system)"
    with trio.move_on_after(10 * EXAMINE_AGAIN) as waited:
        await arrival(asleep)
    assert waited.cancelled_caught
    assert "cannot be handed over (Read-only file system)" in str(asleep.why_kept)
    assert suspended.world.memory_out


async def test_what_cold_would_lose_keeps_it_in_standby_until_it_is_gone(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    on_disk(suspended, standby=False)
    obstacle = Obstacle("io-uring", "uses io_uring", "do without it")
    suspended.world.obstacles = [[obstacle], [obstacle], []]
    began = trio.current_time()
    found: list[str] = []

    async def look() -> None:
        await trio.sleep(1.0)
        found.append(suspended.life.why)
        assert asleep.obstacles == [obstacle]
        assert suspended.world.memory_out, "it stays in STANDBY after all"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        assert await arrival(asleep) is Event.STANDBY_OVER
    assert trio.current_time() - began == pytest.approx(2 * EXAMINE_AGAIN)
    assert found == ["stays in STANDBY, since COLD would lose something: uses io_uring (do without it)"]


@pytest.mark.parametrize("carried", [False, True])
async def test_the_dump_is_of_a_container_that_has_all_of_its_memory_but_for_what_the_store_keeps(
    asleep: SuspendStrategy, suspended: Suspended, carried: bool
) -> None:
    suspended.world.carried = carried
    done = len(suspended.world.calls)
    assert await asleep.dump() is Event.DUMPED
    calls = [call for call in suspended.world.calls[done:] if call != "event"]
    assert calls == ["leave", *([] if carried else ["bring_back"]), "dropped", "checkpoint", "ended"]
    assert (asleep.ended, asleep.image_bytes, suspended.world.opened) == (True, 5, 0)
    assert asleep.memory_report() is None


async def test_how_long_requests_wait_for_a_dump_is_counted_from_the_dump(
    asleep: SuspendStrategy, suspended: Suspended, monkeypatch: pytest.MonkeyPatch
) -> None:
    froze_at = asleep.frozen_at
    monkeypatch.setattr(suspend, "time", SimpleNamespace(monotonic=lambda: froze_at + 3600.0))
    await asleep.dump()
    assert asleep.frozen_at == froze_at + 3600.0, "not from the freeze, an hour ago"


@pytest.mark.parametrize(
    ("what", "event"),
    [
        (Arrived.CONNECTION, Event.CONNECTION),
        (Arrived.DATA, Event.DATA),
        ("wake_wanted", Event.WANTED),
        ("nap_wanted", Event.KEPT),
        ("inhibited", Event.KEPT),
    ],
)
async def test_what_comes_while_memory_comes_back_is_what_becomes_of_the_dump(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock, what: Arrived | str, event: Event
) -> None:
    suspended.world.waits["bring_back"] = [trio.sleep_forever]

    async def come() -> None:
        await trio.sleep(1.0)
        if isinstance(what, Arrived):
            suspended.world.arrive(what)
        elif what == "inhibited":
            suspended.life.inhibit_for_good(said("exec"))
        else:
            getattr(suspended.life, what).set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        with trio.fail_after(10.0):
            assert await asleep.dump() is event
    world = suspended.world
    assert "checkpoint" not in world.calls
    assert (world.frozen, world.opened, asleep.ended) == (True, 1, False), "it is in STANDBY as before"


async def test_a_dump_that_is_refused_keeps_it_in_standby_for_a_while(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    on_disk(suspended, standby=False)
    assert await arrival(asleep) is Event.STANDBY_OVER
    suspended.world.raises["checkpoint"] = [NotIdle(said("a peer has not acknowledged all data yet"))]
    assert await asleep.dump() is Event.KEPT
    assert str(asleep.why_kept) == "stays in STANDBY: a peer has not acknowledged all data yet"
    assert suspended.world.slots == 0
    began = trio.current_time()
    assert await arrival(asleep) is Event.STANDBY_OVER
    assert trio.current_time() - began == pytest.approx(AFTER_BUSY)


async def test_a_dump_that_fails_is_tried_again_much_later(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    on_disk(suspended, standby=False)
    began = trio.current_time()
    assert await arrival(asleep) is Event.STANDBY_OVER
    suspended.world.raises["checkpoint"] = [CheckpointFailed(said("its checkpoint failed"))]
    with pytest.raises(CheckpointFailed):
        await asleep.dump()
    assert (suspended.world.frozen, suspended.world.slots) == (True, 0)
    asleep.thaw()
    asleep.awake()
    assert suspended.is_whole
    reach(suspended.life, State.CHECKPOINTING)
    assert await asleep.freeze() is Event.FROZEN
    assert await arrival(asleep) is Event.STANDBY_OVER
    assert trio.current_time() - began == pytest.approx(AFTER_FAILURE)


async def test_memory_that_does_not_come_back_for_a_dump_is_the_end(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    suspended.world.raises["bring_back"] = [MemoryLost("its pager died")]
    with pytest.raises(ContainerLost, match="its pager died"):
        await asleep.dump()
    assert suspended.world.calls[-1] == "terminate"


# COLD


@pytest.fixture
async def cold(asleep: SuspendStrategy, suspended: Suspended) -> SuspendStrategy:
    suspended.life.happen(Event.STANDBY_OVER)
    assert await asleep.dump() is Event.DUMPED
    suspended.life.happen(Event.DUMPED)
    return asleep


async def test_a_container_on_disk_hears_of_what_is_held_for_it(
    cold: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    suspended.world.connected.set()
    assert await arrival(cold) is Event.CONNECTION


@pytest.mark.parametrize("errors", [[], [CriuError("no")], [ValueError("a defect"), CriuError("no")]])
async def test_it_is_restored_lazily_else_eagerly_and_then_has_what_waited(
    cold: SuspendStrategy, suspended: Suspended, errors: list[Exception]
) -> None:
    world = suspended.world
    for error, step in zip(errors, ("restore True", "restore False"), strict=False):
        world.raises[step] = [error]
    done = len(world.calls)
    await cold.restore()
    attempts = ["restore True", "restore False", "restore False"][: len(errors) + 1]
    assert world.calls[done:] == [*attempts, "hand_over", "release", "drain", "tidy"]
    assert (cold.ended, suspended.is_whole) == (False, True)


@pytest.mark.parametrize("damage", ["", "pages-1.img is gone"])
async def test_one_that_cannot_be_restored_is_lost_and_its_image_kept(
    cold: SuspendStrategy, suspended: Suspended, damage: str
) -> None:
    world = suspended.world
    world.damage = damage
    world.raises = {"restore True": [CriuError("no")], "restore False": [CriuError("no"), ValueError("a defect")]}
    with pytest.raises(ContainerLost, match=r"cannot be restored: .* Its image is kept in /kept") as lost:
        await cold.restore()
    assert (damage or "no; then ValueError: a defect.") in str(lost.value)
    assert world.calls[-1] == "keep image"
    assert ("restore True" in world.calls) is not bool(damage)


# The end


@pytest.mark.parametrize("step", ["", "thaw", "release", "hand_over", "kept.close", "complete", "bring_back"])
async def test_whatever_fails_as_it_is_let_go_of_the_rest_is_done(
    asleep: SuspendStrategy, suspended: Suspended, step: str
) -> None:
    world, done = suspended.world, len(suspended.world.calls)
    if step:
        world.raises[step] = [OSError("no such thing")]
        with pytest.raises(OSError, match="no such thing"):
            await asleep.release()
    else:
        await asleep.release()
    calls = [call for call in world.calls[done:] if call not in ("cut", "woke")]
    expected = ["thaw", "release", "hand_over", "kept.close", "complete", "bring_back", "moved", "memory.close"]
    if step == "complete":
        expected.remove("bring_back")
    assert calls == [*expected, *(["drop_images"] if not step else [])]
    assert world.opened == 0


@pytest.mark.parametrize("dead", [False, True])
async def test_memory_is_brought_back_before_what_brings_it_ends_if_there_is_anything_to_bring_it_to(
    asleep: SuspendStrategy, suspended: Suspended, dead: bool
) -> None:
    suspended.world.dead = dead
    await asleep.release()
    calls = suspended.world.since("kept.close")
    assert calls == [
        "kept.close",
        *([] if dead else ["complete", "bring_back"]),
        "moved",
        "memory.close",
        "drop_images",
    ]


async def test_memory_that_does_not_come_back_at_the_end_is_the_containers_end(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    suspended.world.raises["complete"] = [CriuError("the pager is lost")]
    with pytest.raises(ContainerLost, match="the pager is lost"):
        await asleep.release()
    assert suspended.world.calls[-2:] == ["moved", "memory.close"]


def gigabytes(suspended: Suspended, number: int) -> float:
    """The container has so much memory; return how many seconds it may take to come back."""
    suspended.world.resident = number << 30
    return bring_back_within(number << 30)


async def test_more_memory_has_longer_to_come_back_however_long_the_caller_would_wait(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    longest = gigabytes(suspended, 8)
    assert longest > 10 * bring_back_within(100 * MEBIBYTE)
    suspended.world.waits["bring_back"] = [partial(trio.sleep, longest - 1.0)]
    with trio.move_on_after(RESCUE):
        await asleep.release()
    assert suspended.world.calls[-3:] == ["moved", "memory.close", "drop_images"]
    assert not suspended.world.memory_out


@pytest.mark.parametrize("step", ["complete", "bring_back"])
async def test_memory_that_takes_longer_than_that_is_lost_and_how_much_time_it_had_is_told(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock, step: str
) -> None:
    longest = gigabytes(suspended, 1)
    suspended.world.waits[step] = [trio.sleep_forever]
    with pytest.raises(ContainerLost, match=f"not all of it has come back within {longest:.0f} s"):
        await asleep.release()
    assert suspended.world.calls[-3:] == ["terminate", "moved", "memory.close"]


async def test_a_container_that_ends_meanwhile_needs_no_memory(
    asleep: SuspendStrategy, suspended: Suspended, autojump_clock: MockClock
) -> None:
    suspended.world.waits["bring_back"] = [trio.sleep_forever]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asleep.release)
        await trio.sleep(1.0)
        suspended.world.ended_by_itself.set()
        nursery.cancel_scope.deadline = trio.current_time() + 1.0
    assert not nursery.cancel_scope.cancelled_caught
    assert "terminate" not in suspended.world.calls
    assert suspended.world.calls[-3:] == ["moved", "memory.close", "drop_images"]


async def test_a_checkpoint_of_containerds_waits_for_both_kinds_of_memory_that_is_out(
    asleep: SuspendStrategy, suspended: Suspended
) -> None:
    asleep.thaw()
    asleep.awake()
    await asleep.make_whole()
    assert suspended.world.calls[-2:] == ["complete", "bring_back"]
