"""Stand-ins for what a container works with: runc, its pod's network, the way to containerd.

The container, its life and its controller are the real ones in every test.
"""

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from google.protobuf.message import Message

from zeropod.activator.network import combined
from zeropod.kernel.lookup import Activity
from zeropod.kernel.sock_diag import TcpSocket
from zeropod.lifecycle.defaults import Resolution
from zeropod.lifecycle.settings import Settings
from zeropod.runtime import cgroups
from zeropod.runtime.command import Started, nothing
from zeropod.runtime.errors import RuncError
from zeropod.runtime.runc import Runc
from zeropod.runtime.spec import Spec
from zeropod.runtime.stdio import ProcessIO, Stdio, Streams
from zeropod.shim.container import Container
from zeropod.shim.pod import Pod
from zeropod.shim.process import Process
from zeropod.shim.publisher import Publisher

Hook = Callable[[], Awaitable[None]]


class Events(Publisher):
    """Keeps what would go to containerd."""

    def __init__(self) -> None:
        super().__init__("k8s.io", "/nowhere")
        self.events: list[Message] = []

    def publish(self, event: Message) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


class FakeCgroup(cgroups.CgroupV2):
    """Its files are a test's, so that writing to them has no effect of its own."""

    def kill(self) -> bool:
        pids = self.pids()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)


class FakeConnections:
    """Stands in for `EstablishedConnections`, of which there are none."""

    def close(self) -> None:
        pass


class FakeNetwork:
    """A pod's network in which tests say what has happened; stands in for `PodNetwork`."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.lookups: dict[int, Activity] = {}
        self.sockets: list[TcpSocket] = []
        self.ports: frozenset[int] = frozenset()
        self.closed = 0
        self.looks = 0
        """How often the kernel was asked for its connections."""
        self.limits: list[str] = []
        self.established = FakeConnections()

    def connect(self, port: int) -> None:
        """A new connection comes, now."""
        seen = self.lookups[port].connections if port in self.lookups else 0
        self.lookups[port] = Activity(now(), seen + 1)

    def activity(self, ports: Collection[int]) -> Activity:
        return combined(self.lookups, ports)

    async def run(self) -> None:
        pass

    def connections(self) -> list[TcpSocket]:
        return self.sockets

    def counting(self) -> list[TcpSocket]:
        self.looks += 1
        return self.sockets

    def from_probe_sources(self, inodes: object, ports: object) -> list[TcpSocket]:
        return []

    def listening_ports(self, inodes: object) -> frozenset[int]:
        return self.ports

    def close(self) -> None:
        self.closed += 1


def now() -> int:
    """Virtual time as CLOCK_MONOTONIC counts, in nanoseconds."""
    return round(trio.current_time() * 1e9)


@dataclass(frozen=True, slots=True)
class FakeRunc(Runc):
    """Keeps what it was told. Containers and execs are real processes, of `program`."""

    program: tuple[str, ...] = ("/bin/sleep", "1000")
    calls: list[str] = field(default_factory=list)
    fails: dict[str, str] = field(default_factory=dict)
    """What the error of a command says."""
    hooks: dict[str, Hook] = field(default_factory=dict)
    """What happens during a command."""
    pids: list[int] = field(default_factory=list)

    async def _run(
        self,
        *arguments: str,
        timeout: float = 0,
        streams: Streams | None = None,
        input: bytes | None = None,
        capture: bool = False,
        by_criu: bool = False,
        oom_score_adj: int | None = None,
        started: Started = nothing,
    ) -> bytes:
        command = arguments[0]
        self.calls.append(" ".join(("kill", *arguments[-2:]) if command == "kill" else (command,)))
        if command in self.hooks:
            await self.hooks[command]()
        if command in self.fails:
            raise RuncError(self.fails[command])
        if command in ("create", "exec", "restore"):
            self._spawn(Path(arguments[arguments.index("--pid-file") + 1]))
        if command == "kill" and self.pids:
            self._kill(int(arguments[-1]))
        return b""

    def _spawn(self, pid_file: Path) -> None:
        pid = os.posix_spawn(self.program[0], self.program, {})
        self.pids.append(pid)
        pid_file.write_text(str(pid))

    def _kill(self, number: int) -> None:
        if not alive(self.pids[0]):
            raise RuncError("container not running")
        os.kill(self.pids[0], number)

    def reap(self) -> None:
        """Ends what is left of its processes."""
        for pid in self.pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED)


def alive(child: int) -> bool:
    """Whether our child runs; one that was reaped is never asked about by its number."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def spec(bundle: Path, **content: Any) -> Spec:
    """A config.json in the bundle, of a container with a pid namespace of its own."""
    linux = {"namespaces": [{"type": "pid"}, {"type": "network"}]}
    result = Spec(bundle / "config.json", {"linux": linux, **content})
    result.write()
    return result


@dataclass
class World:
    """One container and everything around it."""

    pod: Pod
    events: Events
    runc: FakeRunc
    container: Container

    @classmethod
    def make(cls, bundle: Path, nursery: trio.Nursery, settings: Settings | None = None, **content: Any) -> "World":
        events = Events()
        pod = Pod("k8s.io", nursery, events)
        runc = FakeRunc("k8s.io", bundle)
        process = Process("web", ProcessIO(Stdio()))
        container = Container("web", spec(bundle, **content), Resolution(settings or Settings()), runc, process, pod)
        pod.add(container)
        return cls(pod, events, runc, container)
