"""What is seen of a container for `policy.decide`, and the wait until it may sleep by that.

A new connection is seen by the `sk_lookup` program, data on an established one, either way, by the kernel's own
`tcpi_last_data_recv` and `tcpi_last_data_sent`. The monitor looks no more often than it has to: between activity and
the end of the scale-down duration it sleeps, too, and looks again when the container could be idle at the earliest.
What it found last is what `zeropod ps` shows as the reason why a container is not asleep.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import replace

import trio

from zeropod.activator.network import PodNetwork
from zeropod.kernel.lookup import Activity
from zeropod.kernel.sock_diag import TcpSocket
from zeropod.lifecycle.idle.policy import Awake, Snapshot, decide
from zeropod.lifecycle.machine import Life, State
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import NotIdle, Workload

_MILLISECOND = 1_000_000

LISTENING = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between looks for listening sockets; the last one for all further ones."""

LOOK = 0.25
"""Seconds between looks at the CPU time of a container that owes an answer."""

GLANCES = 5
"""In the duration of one such look, at what its tasks are doing."""

SHORTEST = 0.1
"""Seconds in which CPU time says something."""

WORKING = 0.2
"""Of one CPU. A runtime that only keeps itself busy, a JVM say, uses less."""


def look_at_life(life: Life, pending: Explanation | None = None) -> Snapshot:
    """Return what is known without asking the kernel, `pending` included."""
    return Snapshot(
        now=time.monotonic_ns(),
        wall_clock=time.time(),
        pending=pending,
        state=life.state,
        inhibitors=life.inhibitors,
        # What has woken a container that runs again is still set.
        is_wanted=life.state is State.CHECKPOINTING and life.wake_wanted.is_set(),
    )


def look_at_traffic(
    workload: Workload, network: PodNetwork, ports: Collection[int], pending: Explanation | None = None
) -> Snapshot:
    """Return also when it was active last, and whether a client waits for an answer.

    The kernel takes some milliseconds to list connections: it is not asked where something is `pending` already.
    """
    seen = look_at_life(workload.life, pending)
    if pending or not ports:
        # Where a person has asked for the sleep, a person can end it.
        return replace(seen, listens=bool(ports) or workload.life.sleep_wanted.is_set())
    now, connections = time.monotonic_ns(), network.counting()
    last = last_activity(ports, network.activity(ports), connections, now)
    return replace(
        seen,
        now=now,
        last_activity=last,
        idle_threshold=idle_threshold(workload),
        is_unanswered=unanswered(ports, connections),
    )


def counted_ports(workload: Workload, listening: frozenset[int]) -> frozenset[int]:
    """Return those of the ports that it listens on whose connections count and wake.

    None until it listens: one that starts slowly must not fall asleep before anything can wake it.
    """
    wanted = workload.settings.ports
    return listening & wanted if wanted else listening


def idle_threshold(workload: Workload) -> float:
    """Return the seconds without activity that it takes to put it to sleep; 0 if it was asked for."""
    return 0.0 if workload.life.sleep_wanted.is_set() else workload.settings.scaledown


def require_idle(seen: Snapshot) -> None:
    """Raise NotIdle if something keeps the container awake."""
    decision = decide(seen)
    if isinstance(decision, Awake):
        raise NotIdle(decision.why)


class IdleMonitor:
    def __init__(self, workload: Workload, network: PodNetwork) -> None:
        self._workload = workload
        self._network = network
        self.awake_since = time.monotonic_ns()
        """The start, the first look that found it listening, or the last wake, which count as activity; in nanoseconds
        of CLOCK_MONOTONIC."""
        self._just_woke = False
        """So that it listens is known."""

    def woke(self) -> None:
        """The container has just woken up. The kernel is not asked again in the moment in
        which others of the node may be waking up, too, and takes some milliseconds of a CPU to answer."""
        self.awake_since = time.monotonic_ns()
        self._just_woke = True

    async def idle(self) -> None:
        """Return when the container is idle."""
        looks, rests, cpu_before = 0, False, self._cpu_now()
        while isinstance(decision := decide(self._look(rests=rests)), Awake):
            reason, life = decision.why.reason, self._workload.life
            if reason is Reason.ANSWER_DUE:
                rests = not self._worked_since(cpu_before) and not await self._is_busy()
                if rests:
                    continue  # that took a moment, so all else is looked at once more
            life.explanation = decision.why
            match reason:
                case Reason.ANSWER_DUE:
                    cpu_before = self._cpu_now()
                    await trio.sleep(LOOK)
                case Reason.NOT_LISTENING:
                    await trio.sleep(LISTENING[min(looks, len(LISTENING) - 1)])
                    looks += 1
                    self.awake_since = time.monotonic_ns()  # one that starts slowly is not asleep as soon as it has
                case Reason.RECENTLY_ACTIVE:
                    rests, cpu_before = False, self._cpu_now()
                    assert decision.until is not None
                    await trio.sleep(max(0.0, (decision.until - time.monotonic_ns()) / 1e9))
                case _:
                    rests = False
                    await life.changed()

    def _look(self, *, rests: bool) -> Snapshot:
        seen = look_at_life(self._workload.life)
        if isinstance(decide(seen), Awake):
            return seen
        if self._just_woke:
            self._just_woke = False
            return replace(seen, last_activity=self.awake_since, idle_threshold=idle_threshold(self._workload))
        seen = look_at_traffic(self._workload, self._network, self._ports())
        return replace(seen, last_activity=max(self.awake_since, seen.last_activity), rests=rests)

    async def used(self, since: int) -> None:
        """Return when its ports were active after `since` (CLOCK_MONOTONIC, ns), at the next look at the latest."""
        while True:
            await trio.sleep(max(self._workload.settings.scaledown, SHORTEST))
            if look_at_traffic(self._workload, self._network, self._ports()).last_activity > since:
                return

    def _ports(self) -> frozenset[int]:
        init_process = self._workload.init_process
        if not init_process:
            return frozenset()
        return counted_ports(self._workload, self._network.listening_ports(init_process.socket_inodes()))

    def _cpu_now(self) -> tuple[float, float]:
        """Return the time, and the CPU time that the container has used so far, both in seconds."""
        init_process = self._workload.init_process
        return time.monotonic(), init_process.cgroup.cpu_seconds() if init_process else 0.0

    def _worked_since(self, before: tuple[float, float]) -> bool:
        """Return whether it has used the CPU since then, while nothing came in or went out.

        A request that takes longer than the scale-down duration must not be put to sleep in its middle. That a client
        has sent last is not enough to go by: on a one-way stream it always has.
        """
        now, used = self._cpu_now()
        elapsed = now - before[0]
        return elapsed < SHORTEST or used - before[1] > WORKING * elapsed

    async def _is_busy(self) -> bool:
        """Return whether it wants a CPU or a disk most of the time, however little it gets.

        With a limit of 100m, or on a busy node, a request may use less of the CPU than an idle runtime elsewhere.
        """
        busy = 0
        for _ in range(GLANCES):
            await trio.sleep(LOOK / GLANCES)
            busy += bool(self._workload.init_process and self._workload.init_process.cgroup.busy())
        return busy > GLANCES / 2


def last_activity(
    ports: Collection[int],
    connected: Activity,
    sockets: Iterable[TcpSocket],
    now: int,
) -> int:
    """Return when something last happened on `ports` in nanoseconds of CLOCK_MONOTONIC; 0 if nothing has."""
    moved = (now - quiet_ms(sock) * _MILLISECOND for sock in sockets if sock.local[1] in ports)
    return max([connected.last_ns, *moved])


def quiet_ms(sock: TcpSocket) -> int:
    """Return the milliseconds since data went either way; 0 where the kernel does not say."""
    return min(sock.last_data_received_ms or 0, sock.last_data_sent_ms or 0)


def unanswered(ports: Collection[int], sockets: Iterable[TcpSocket]) -> bool:
    """Return whether on a connection to one of `ports` the client may have sent last, and be waiting for an answer.

    The kernel's clock here ticks every 4 ms or so: of two ages that are the same, either may be the later.
    """
    return any(
        sock.local[1] in ports
        and sock.last_data_received_ms is not None
        and sock.last_data_sent_ms is not None
        and sock.last_data_received_ms <= sock.last_data_sent_ms
        for sock in sockets
    )
