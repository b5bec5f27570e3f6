"""All reasons why a container is awake or not in COLD, from its current state, with remedies.

Data is collected from the kernel first; a pure function turns it into statements. `lifecycle.reasons` has the texts.
"""

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from zeropod.activator.network import PodNetwork
from zeropod.kernel.addresses import NodeAddresses
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.defaults import Choice
from zeropod.lifecycle.idle.monitor import counted_ports, quiet_ms
from zeropod.lifecycle.machine import ASLEEP, State
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import MemoryReport
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.runtime.memory.backend import Kind

if TYPE_CHECKING:
    from zeropod.shim.container import Container

MEBIBYTE = 1 << 20

MOST = 20
"""Most connections that are listed individually."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `text` is a sentence; `remedy` is what to do, or empty."""

    kind: str
    text: str
    remedy: str = ""


class Part(Enum):
    """The effect of a connection on the container's sleep."""

    COUNTS = "counts"
    PROBE = "is a health probe, and does not count"
    OWN = "comes from within the pod, and does not count"
    OTHER = "is on none of its ports, and does not count, but data on it wakes"


@dataclass(frozen=True, slots=True)
class Link:
    """One connection of the container; `idle` in seconds."""

    local: str
    remote: str
    idle: float
    part: Part
    from_node: bool = False
    """Whether its other end is on this node, as a kubelet's is."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The data about one container at one moment."""

    state: State
    why: Explanation | None
    since: str
    scaledown: float
    """Seconds."""
    may_sleep: bool = True
    inhibitors: Sequence[Explanation] = ()
    ports: Collection[int] = ()
    quiet: float | None = None
    """Seconds since the last new connection to the ports; None before the first."""
    links: Sequence[Link] = ()
    probes: int = 0
    """The number of health probes answered in its place."""
    failure: Explanation | None = None
    """The last failure."""
    next_attempt: str = ""
    log: str = ""
    """The path of CRIU's log of the last attempt; empty if there is none."""
    limits: Sequence[str] = ()
    """Features that the kernel lacks."""
    memory: MemoryReport | None = None
    """Where its memory is in STANDBY."""
    obstacles: Sequence[Obstacle] = ()
    """What stands against COLD."""
    choices: Sequence[Choice] = ()
    """Settings that differ from the built-in defaults."""
    complaints: Sequence[Explanation] = ()
    """Invalid defaults, which are ignored."""


PERHAPS_A_PROBE = "If it is a health probe of this node, add its process name to the annotation probe-processes."


def statements(facts: Facts) -> list[Statement]:
    """Return the statements, by descending importance; observations that do not keep it awake come last."""
    found: list[Statement] = []
    if facts.state in ASLEEP:
        found.append(Statement("asleep", f"It sleeps, {facts.state.name} since {facts.since}."))
        if facts.obstacles:
            found += [_against_cold(obstacle) for obstacle in facts.obstacles]
        elif facts.why:
            found.append(_statement(facts.why, kind="depth"))
        if facts.probes:
            found.append(Statement("probe", f"{facts.probes} health probes were answered in its place so far."))
    elif facts.why:
        found.append(_statement(facts.why))
    if facts.may_sleep:
        found += [_statement(inhibitor) for inhibitor in facts.inhibitors if inhibitor != facts.why]
        if facts.state is State.RUNNING:
            found += _traffic(facts)
        if facts.memory and (facts.state in ASLEEP or facts.memory.usage.out):
            found.append(_memory(facts.memory))
        found += _failure(facts)
        found += [_statement(Reason.KERNEL.because(limit)) for limit in facts.limits]
    found += map(_statement, facts.complaints)
    if not found:
        found.append(Statement("state", f"It is {facts.state.name} since {facts.since}."))
    if facts.choices:
        found.append(Statement("setting", f"Set for it: {', '.join(map(str, facts.choices))}."))
    return found


def _statement(why: Explanation, kind: str = "") -> Statement:
    return Statement(kind or why.reason.kind, _sentence(why.text), why.remedy)


def _against_cold(obstacle: Obstacle) -> Statement:
    return Statement("cold", f"COLD would lose something: {obstacle.text}.", obstacle.remedy)


def _memory(memory: MemoryReport) -> Statement:
    """Return where its memory is, and why."""
    usage, left = memory.usage, _mebibytes(memory.left)
    if memory.kind is Kind.RESIDENT:
        text = f"Its memory stays in place, {left}"
    else:
        text = f"Its memory is in {memory.kind}: {_mebibytes(usage.out)} out, {left} in memory"
        if usage.faults:
            text += f", {usage.faults} page faults since the last wake"
    return Statement("memory", f"{text}; {memory.why}.", memory.why.remedy)


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.0f} MiB"


def _traffic(facts: Facts) -> list[Statement]:
    found = []
    if facts.ports:
        ports = ", ".join(map(str, sorted(facts.ports)))
        last = "no connection came yet" if facts.quiet is None else f"the last connection came {_ago(facts.quiet)}"
        text = f"Its ports are {ports}; {last}; it sleeps {facts.scaledown:g} s after the last activity."
        found.append(Statement("ports", text))
    ordered = sorted(facts.links, key=lambda link: (link.part is not Part.COUNTS, link.idle))
    for link in ordered[:MOST]:
        what, hint = link.part.value, ""
        if link.part is Part.COUNTS:
            keeps = link.idle < facts.scaledown
            what = "keeps it awake" if keeps else "has been idle for long enough"
            hint = PERHAPS_A_PROBE if keeps and link.from_node else ""
        text = f"The connection from {link.remote} to {link.local}, last data {_ago(link.idle)}, {what}."
        found.append(Statement("probe" if link.part is Part.PROBE else "connection", text, hint))
    if len(ordered) > MOST:
        found.append(Statement("connection", f"{len(ordered) - MOST} more connections."))
    return found


def _failure(facts: Facts) -> list[Statement]:
    found = []
    if facts.failure:
        when = f" The next attempt is at {facts.next_attempt} at the earliest." if facts.next_attempt else ""
        if facts.failure != facts.why:
            found.append(Statement("error", f"The last failure: {facts.failure}.{when}", facts.failure.remedy))
        elif when:
            found.append(Statement("error", when.strip()))
        if facts.log:
            found.append(Statement("log", f"CRIU's log of the last attempt is {facts.log}."))
    return found


def explain(container: "Container") -> list[Statement]:
    """Return all statements about the container now."""
    return statements(gather(container))


def gather(container: "Container") -> Facts:
    life, controller, settings = container.life, container.controller, container.settings
    network = controller.network if controller else None
    strategy = controller.strategy if controller else None
    ports, quiet, links = _look(container, network) if network and life.state is State.RUNNING else ((), None, ())
    return Facts(
        state=life.state,
        why=life.explanation,
        since=clock(life.since_ns),
        scaledown=settings.scaledown,
        may_sleep=controller is not None,
        inhibitors=life.inhibitors,
        ports=ports,
        quiet=quiet,
        links=links,
        probes=container.probes_answered,
        failure=life.failure,
        next_attempt=clock(controller.next_attempt_ns) if controller and controller.next_attempt_ns else "",
        log=_log(container.store.work),
        limits=network.limits if network else (),
        memory=strategy.memory_report() if strategy else None,
        obstacles=strategy.obstacles if strategy else (),
        choices=container.resolution.choices,
        complaints=container.resolution.complaints,
    )


def _look(container: "Container", network: PodNetwork) -> tuple[Collection[int], float | None, Sequence[Link]]:
    own = container.init_process.socket_inodes() if container.init_process else ()
    ports = counted_ports(container, network.listening_ports(own))
    last = network.activity(ports).last_ns
    quiet = (time.monotonic_ns() - last) / 1e9 if last else None
    # Compared by their ends: the ages of their data change between two queries.
    counting = {(sock.local, sock.remote) for sock in network.counting()}
    mine = [sock for sock in network.connections() if sock.local[1] in ports or sock.inode in own]
    here = _node_addresses()
    return ports, quiet, [_link(sock, ports, (sock.local, sock.remote) in counting, network, here) for sock in mine]


def _node_addresses() -> Collection[str]:
    try:
        with closing(NodeAddresses()) as addresses:
            return addresses.all()
    except OSError:
        return ()


def _link(
    sock: TcpSocket, ports: Collection[int], counts: bool, network: PodNetwork, node_addresses: Collection[str]
) -> Link:
    if sock.local[1] not in ports:
        part = Part.OTHER
    elif counts:
        part = Part.COUNTS
    else:
        part = Part.PROBE if network.probe_sources and network.probe_sources.made(sock) else Part.OWN
    idle = 0.0 if sock.state is TcpState.SYN_SENT else quiet_ms(sock) / 1000
    return Link(_address(sock.local), _address(sock.remote), idle, part, sock.remote[0] in node_addresses)


def _address(end: tuple[str, int]) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _log(work: Path) -> str:
    """Return the path of the newest of CRIU's logs."""
    logs = [path for name in ("dump.log", "restore.log") if (path := work / name).exists()]
    return str(max(logs, key=lambda path: path.stat().st_mtime_ns)) if logs else ""


def clock(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns / 1e9, UTC):%H:%M:%S} UTC"


def _ago(seconds: float) -> str:
    return f"{seconds:.1f} s ago"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")
