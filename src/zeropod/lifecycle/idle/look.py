"""Looks at a container for `policy.decide`: what its life says, and what the kernel tells of its traffic."""

import time
from collections.abc import Collection
from dataclasses import replace

from zeropod.activator.network import PodNetwork
from zeropod.lifecycle.idle.activity import last_activity, unanswered
from zeropod.lifecycle.idle.policy import Awake, Snapshot, decide
from zeropod.lifecycle.life import Life
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Explanation
from zeropod.lifecycle.strategy import NotIdle, Workload


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
        idle_threshold=workload.idle_threshold,
        is_unanswered=unanswered(ports, connections),
    )


def require_idle(seen: Snapshot) -> None:
    """Raise NotIdle if something keeps the container awake."""
    decision = decide(seen)
    if isinstance(decision, Awake):
        raise NotIdle(decision.why)
