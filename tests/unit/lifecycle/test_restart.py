"""A container that is ended to sleep and started again to wake: nothing of it is lost or left wherever it fails."""

import logging
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.unit.shim.states import reach
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.concurrency import GuardedNursery
from zeropod.kernel.lookup import Activity
from zeropod.kernel.pidfd import ExitStatus
from zeropod.kernel.sock_diag import TcpSocket
from zeropod.lifecycle import restart
from zeropod.lifecycle.machine import Event, Life, State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.restart import GRACE, LONGEST_LOOK, RestartStrategy
from zeropod.lifecycle.settings import Settings
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, NotIdle
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.errors import RuncError

PORT = 80
PID = 4_000_001
"""Beyond what the kernel gives to processes."""


class World:
    """The container and everything around it: what was done, in order, and what fails."""

    def __init__(self, nursery: trio.Nursery, **settings: Any) -> None:
        self.calls: list[str] = []
        self.raises: dict[str, Exception] = {}
        self.listening = frozenset({PORT})
        self.looks: list[float] = []
        self.connections = 0
        self.last_ns = 0
        self.dies_of = signal.SIGTERM
        self.pids = [PID]
        self.steered: set[int] = set()
        self.as_it_redirects: Callable[[], object] = lambda: None
        self.arrived = trio.Event()
        self.life = Life()
        reach(self.life, State.CHECKPOINTING)
        self.process: Any = SimpleNamespace(
            pid=PID,
            cgroup=SimpleNamespace(kill=self._kill_all),
            socket_inodes=lambda: frozenset({7}),
            exited=trio.Event(),
            exit_expected=False,
        )
        self.workload: Any = SimpleNamespace(
            id="web",
            settings=Settings(**{"scaledown": 60.0, "disable_checkpointing": True, **settings}),
            life=self.life,
            init_process=self.process,
            init=SimpleNamespace(pid=PID),
            runc=SimpleNamespace(delete=self._delete),
            log=logging.LoggerAdapter(logging.getLogger("restart"), {}),
            slept=None,
            stats_awake=self._stats,
            start_afresh=lambda: self.does("start"),
        )
        network: Any = SimpleNamespace(
            path="/proc/self/ns/net",
            lookup=object(),
            probe_sources=None,
            listening_ports=self._listening_ports,
            activity=lambda _: Activity(self.last_ns, self.connections),
            counting=self._counting,
        )
        self.network = network
        self.strategy = RestartStrategy(self.workload, network, GuardedNursery(nursery))

    def did(self, call: str) -> None:
        self.calls.append(call)
        if error := self.raises.get(call):
            raise error

    async def does(self, call: str) -> None:
        await trio.lowlevel.checkpoint()
        self.did(call)

    def _kill_all(self) -> None:
        self.did("kill all")
        self.process.exited.set()

    def _stats(self) -> str:
        self.did("stats")
        return "statistics"

    def _counting(self) -> list[TcpSocket]:
        self.did("list")
        return []

    async def _delete(self, _: str, *, force: bool) -> None:
        assert force
        await self.does("runc delete")

    def _listening_ports(self, _: object) -> frozenset[int]:
        self.looks.append(trio.current_time())
        return self.listening

    def kill(self, pid: int, number: int) -> None:
        self.did(f"kill {pid} {number}")
        if pid not in self.pids:
            raise ProcessLookupError
        if number == self.dies_of:
            self.process.exited.set()

    @property
    def runs(self) -> bool:
        """The processes were left alone, and connections go to them."""
        killed = any(call.startswith("kill") for call in self.calls)
        return not (killed or self.process.exit_expected or self.strategy.ended or self.steered)


@pytest.fixture
def world(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> World:
    made = World(nursery, **getattr(request, "param", {}))

    class Redirect:
        """Stands in for the real one: what is steered, and until when."""

        def __init__(self, _: object, ports: frozenset[int], *__: object, **___: object) -> None:
            self._ports = set(ports)

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            await made.does("redirect")
            made.steered = set(self._ports)
            made.as_it_redirects()
            task_status.started()
            await trio.sleep_forever()

        def ready(self, ports: frozenset[int] | None = None) -> None:
            made.did("ready")
            made.steered -= self._ports if ports is None else ports

        def close(self) -> None:
            made.did("close")
            made.steered = set()

        async def connection(self) -> None:
            await made.arrived.wait()

    monkeypatch.setattr(restart, "Redirect", Redirect)
    monkeypatch.setattr(restart, "os", SimpleNamespace(kill=made.kill))
    return made


async def test_it_is_redirected_before_it_is_ended_and_then_forgotten_by_runc(world: World) -> None:
    assert await world.strategy.freeze() is Event.DUMPED
    assert world.calls == ["redirect", "list", "stats", f"kill {PID} {signal.SIGTERM}", "runc delete"]
    assert (world.steered, world.strategy.ended, world.process.exit_expected) == ({PORT}, True, True)
    assert world.workload.slept == "statistics"
    world.arrived.set()
    (arrival,) = world.strategy.arrivals()
    assert await arrival() is Event.CONNECTION


async def test_without_ebpf_it_is_not_ended(world: World) -> None:
    world.network.lookup = None
    with pytest.raises(CheckpointFailed) as failed:
        await world.strategy.freeze()
    assert failed.value.explanation == Reason.NO_EBPF.because()
    assert world.runs


@pytest.mark.parametrize("world", [{}, {"ports": frozenset({PORT})}], indirect=True)
async def test_one_that_nothing_could_connect_to_is_not_ended(world: World) -> None:
    world.listening = frozenset()
    with pytest.raises(NotIdle, match="nothing in it listens"):
        await world.strategy.freeze()
    assert world.runs
    assert "redirect" not in world.calls


async def test_connections_that_cannot_be_redirected_leave_it_awake(world: World) -> None:
    world.raises["redirect"] = OSError("no room in the map")
    with pytest.raises(CheckpointFailed, match="its connections cannot be redirected: no room in the map"):
        await world.strategy.freeze()
    assert world.runs


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("connection", "a connection came at the last moment"),
        ("data", "last active at .* UTC, sleeps 60 s after that"),
        ("request", "a request came at the last moment"),
        ("exec", "exec 7 is running"),
    ],
)
async def test_what_came_until_it_was_redirected_goes_to_the_container_itself(
    world: World, what: str, why: str
) -> None:
    def come() -> None:
        match what:
            case "connection":
                world.connections += 1
            case "data":
                world.last_ns = time.monotonic_ns()
                world.connections = 0
            case "request":
                world.life.wake_wanted.set()
            case "exec":
                world.life.inhibit_for_good(Reason.EXEC.because("7"))

    world.last_ns = time.monotonic_ns() if what == "data" else 0
    world.as_it_redirects = come if what != "data" else lambda: None
    with pytest.raises(NotIdle, match=why):
        await world.strategy.freeze()
    assert world.calls[-1] == "ready"
    assert world.runs


async def test_a_last_look_that_fails_leaves_nothing_redirected(world: World) -> None:
    world.raises["list"] = OSError("netlink")
    with pytest.raises(OSError, match="netlink"):
        await world.strategy.freeze()
    assert world.runs


async def test_one_that_does_not_end_by_itself_is_killed_with_all_of_its_processes(
    world: World, autojump_clock: MockClock
) -> None:
    world.dies_of = signal.SIGKILL
    began = trio.current_time()
    assert await world.strategy.freeze() is Event.DUMPED
    assert trio.current_time() - began == pytest.approx(GRACE)
    kills = [call for call in world.calls if call.startswith("kill")]
    assert kills == [f"kill {PID} {signal.SIGTERM}", "kill all"]


async def test_one_that_ends_at_that_very_moment_is_not_an_error(world: World) -> None:
    world.pids = []
    world.process.exited.set()
    assert await world.strategy.freeze() is Event.DUMPED


async def test_a_runc_that_has_forgotten_it_already_is_not_an_error(world: World) -> None:
    world.raises["runc delete"] = RuncError("container does not exist")
    assert await world.strategy.freeze() is Event.DUMPED
    assert world.strategy.ended


async def test_one_that_cannot_be_started_again_is_lost_and_what_waits_for_it_is_reset(world: World) -> None:
    await world.strategy.freeze()
    world.raises["start"] = RpcError(Code.UNKNOWN, "OCI runtime create failed: no such file")
    with pytest.raises(ContainerLost, match="cannot be started again: OCI runtime create failed: no such file") as lost:
        await world.strategy.restore()
    status: ExitStatus = lost.value.status
    assert (status.pid, status.code, world.strategy.ended) == (PID, 137, True)
    await world.strategy.release()
    assert (world.calls[-1], world.steered) == ("close", set())


async def test_a_started_one_has_each_port_as_soon_as_it_listens_there(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world.listening = frozenset({PORT, 81})
    await world.strategy.freeze()
    world.listening = frozenset()
    await world.strategy.restore()
    assert not world.strategy.ended
    ended = trio.Event()

    async def wait() -> None:
        await world.strategy.ready()
        ended.set()

    nursery.start_soon(wait)
    await trio.sleep(1.0)
    assert world.steered == {PORT, 81}
    for listening in ({81}, {81, PORT}):
        world.listening = frozenset(listening)
        assert not ended.is_set()
        await trio.sleep(1.0)
        assert world.steered == {PORT, 81} - listening
    await wait_all_tasks_blocked()
    assert ended.is_set()


async def test_one_that_takes_long_to_listen_is_looked_at_less_and_less_often(
    world: World, autojump_clock: MockClock
) -> None:
    await world.strategy.freeze()
    world.listening = frozenset()
    await world.strategy.restore()
    world.looks = []
    with trio.move_on_after(3600.0):
        await world.strategy.ready()
    assert len(world.looks) < 3600.0 / LONGEST_LOOK + 150
    assert world.looks[-1] - world.looks[-2] == pytest.approx(LONGEST_LOOK)


@pytest.mark.parametrize("world", [{"ports": frozenset({PORT, 81})}], indirect=True)
async def test_a_port_that_it_never_listened_on_is_not_waited_for(world: World, autojump_clock: MockClock) -> None:
    assert await world.strategy.freeze() is Event.DUMPED
    assert world.steered == {PORT}
    await world.strategy.restore()
    with trio.fail_after(10.0):
        await world.strategy.ready()


async def test_one_that_was_never_ended_is_let_go_of_without_a_trace(world: World) -> None:
    await world.strategy.release()
    assert world.calls == []
