"""Collect the data for `policy.decide`, and wait until a container is idle.

The `sk_lookup` program reports new connections; the kernel's `tcpi_last_data_recv` and `tcpi_last_data_sent` report
data on established ones. The monitor checks no more often than necessary: after activity it sleeps until the container
could be idle at the earliest. `zeropod ps` shows the last result as the reason why a container is awake.
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
"""Seconds between checks for listening sockets; the last value repeats."""

LOOK = 0.25
"""Seconds between checks of the CPU time of a container that has not answered a request."""

GLANCES = 5
"""Samples of the states of its tasks within LOOK seconds."""

SHORTEST = 0.1
"""Shortest interval, in seconds, over which CPU time is meaningful."""

WORKING = 0.2
"""Share of one CPU from which a container counts as working. An idle runtime such as a JVM uses less."""


def look_at_life(life: Life, pending: Explanation | None = None) -> Snapshot:
    """Return a snapshot of what is known without querying the kernel, with `pending`."""
    return Snapshot(
        now=time.monotonic_ns(),
        wall_clock=time.time(),
        pending=pending,
        state=life.state,
        inhibitors=life.inhibitors,
        # While it runs, wake_wanted may still be set from its last wake.
        is_wanted=life.state is State.CHECKPOINTING and life.wake_wanted.is_set(),
    )


def look_at_traffic(
    workload: Workload, network: PodNetwork, ports: Collection[int], pending: Explanation | None = None
) -> Snapshot:
    """Return a snapshot that includes the last activity, and whether a client waits for an answer.

    Listing connections takes the kernel some milliseconds, so it is skipped if `pending` is set already.
    """
    seen = look_at_life(workload.life, pending)
    if pending or not ports:
        # A sleep by `zeropod sleep` needs no listener: `zeropod wake` can end it.
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
    """Return the listening ports whose connections count and wake.

    The result is empty until it listens, so that a slowly starting container does not sleep before it can be woken.
    """
    wanted = workload.settings.ports
    return listening & wanted if wanted else listening


def idle_threshold(workload: Workload) -> float:
    """Return the seconds without activity after which it sleeps; 0 if sleep was requested."""
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
        """Time of its start, of the first check that found it listening, or of its last wake, which count as activity;
        in nanoseconds of CLOCK_MONOTONIC."""
        self._just_woke = False
        """Whether the next check can skip the kernel: a container that was woken listens."""

    def woke(self) -> None:
        """Record a wake as activity.

        The next check does not query the kernel, which would cost CPU time while other containers may be waking up.
        """
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
                    continue  # that took time, so check everything again
            life.explanation = decision.why
            match reason:
                case Reason.ANSWER_DUE:
                    cpu_before = self._cpu_now()
                    await trio.sleep(LOOK)
                case Reason.NOT_LISTENING:
                    await trio.sleep(LISTENING[min(looks, len(LISTENING) - 1)])
                    looks += 1
                    self.awake_since = time.monotonic_ns()  # once it listens, it stays awake for a whole duration
                case Reason.RECENTLY_ACTIVE:
                    rests, cpu_before = False, self._cpu_now()
                    assert decision.until is not None
                    await trio.sleep(max(0.0, (decision.until - time.monotonic_ns()) / 1e9))
                case _:
                    rests = False
                    await life.changed()
                    cpu_before = self._cpu_now()

    def _look(self, *, rests: bool) -> Snapshot:
        seen = look_at_life(self._workload.life)
        just_woke, self._just_woke = self._just_woke, False
        if isinstance(decide(seen), Awake):
            return seen
        if just_woke:
            return replace(seen, last_activity=self.awake_since, idle_threshold=idle_threshold(self._workload))
        seen = look_at_traffic(self._workload, self._network, self._ports())
        return replace(seen, last_activity=max(self.awake_since, seen.last_activity), rests=rests)

    async def used(self, since: int) -> None:
        """Return when its ports were active after `since` (CLOCK_MONOTONIC, ns), checked once per scale-down
        duration."""
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
        """Return whether it has used the CPU since then, without traffic.

        A request that takes longer than the scale-down duration must not be interrupted by sleep. That the client sent
        last is not sufficient evidence of a request: on a one-way stream it always did.
        """
        now, used = self._cpu_now()
        elapsed = now - before[0]
        return elapsed < SHORTEST or used - before[1] > WORKING * elapsed

    async def _is_busy(self) -> bool:
        """Return whether it needs a CPU or a disk most of the time, however little it gets.

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
    """Return the milliseconds since data was sent or received; 0 if the kernel does not report it."""
    return min(sock.last_data_received_ms or 0, sock.last_data_sent_ms or 0)


def unanswered(ports: Collection[int], sockets: Iterable[TcpSocket]) -> bool:
    """Return whether the client of a connection to one of `ports` may have sent last, and so may wait for an answer.

    The kernel's timestamps have a resolution of some 4 ms: with equal ages, either side may have sent last.
    """
    return any(
        sock.local[1] in ports
        and sock.last_data_received_ms is not None
        and sock.last_data_sent_ms is not None
        and sock.last_data_received_ms <= sock.last_data_sent_ms
        for sock in sockets
    )
