"""What a situation works with: subjects in a pod with one memory backend, and the night that all of them sleep through.

A situation is a generator function `(scene) -> Iterator[None]`: it makes its subjects and brings them where they are to
be, yields, and checks afterwards. At the yield all subjects of all situations that are to run are put to sleep
together, so that many situations take little more time than one. In the second half they have been in STANDBY for
NIGHT seconds, with their memory out, and are asleep still.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio
from tests.integration import containerd, cri, node
from tests.integration.endpoint import TIMEOUT
from tests.integration.patience import patient, patient_duration
from tests.integration.protos import containerd_services_pb2 as api
from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.situations import subject
from tests.integration.situations.subject import BALLAST, MEBIBYTE, PROGRAM, Told
from tests.integration.sleep.helpers.stage import OURS, PREFIX

from zeropod import shims
from zeropod.kernel.namespace import entered
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

NIGHT = 2.0
"""Seconds that each subject sleeps at least."""

SCALEDOWN = "400ms"
PYTHON = "localhost/python:test"
BUSYBOX = "localhost/redis:test"
BACKGROUND = 32

ASKED = 3
"""Times that a shim is given to answer: dozens of containers fall asleep at the same moment."""

Situation = Callable[["Scene"], Iterator[None]]
_T = TypeVar("_T")


@dataclass
class Subject:
    """A container with the program of `subject`, made through CRI or containerd's API."""

    container: cri.Container | containerd.Container
    namespace: str
    """containerd's."""
    backend: str
    host: str
    port: int
    megabytes: int
    network: str = ""
    """The path of its network namespace, where it is not reached otherwise."""
    pid: int = 0
    """On the node, as it was when it began."""
    restores: int = 0
    """Its wakes before the night."""

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def cri(self) -> cri.Container:
        assert isinstance(self.container, cri.Container)
        return self.container

    @property
    def task(self) -> containerd.Container:
        assert isinstance(self.container, containerd.Container)
        return self.container

    def connect(self) -> Told:
        with entered(self.network) if self.network else nullcontext():
            return Told(socket.create_connection((self.host, self.port), patient(20.0)))

    def tell(self, source: str) -> Any:
        """Tell it by a new connection, which wakes it."""
        with self.connect() as told:
            return told(source)

    @property
    def status(self) -> ContainerStatus:
        """Raises LookupError when no shim has it, or the one that has it does not answer."""
        for _ in range(ASKED):
            found, _ = trio.run(shims.look)
            for status in (each.status for each in found):
                if (status.namespace, status.id) == (self.namespace, self.id):
                    return status
        raise LookupError(f"no shim says that it has {self.id}")

    @property
    def state(self) -> str:
        """RUNNING, COLD, …; empty when no shim has it."""
        with suppress(LookupError):
            return State.Name(self.status.state)
        return ""

    def until(self, state: str, timeout: float = 20.0) -> ContainerStatus:
        """The status once it is in this state. Raises TimeoutError."""
        try:
            node.until(lambda: self.state == state, f"{self.id[:12]} is in {state}", timeout)
        except TimeoutError as error:
            with suppress(LookupError):
                error.add_note(str(self.status))
            raise
        return self.status

    def standby(self) -> ContainerStatus:
        return self.until("STANDBY")

    def is_out(self) -> bool:
        """Whether its memory is where it is to be."""
        if self.megabytes < BALLAST:
            return True
        with open(f"/proc/{self.status.pid}/smaps_rollup") as file:
            sizes = dict(line.split(":") for line in file.read().splitlines()[1:])
        return int(sizes["Anonymous"].split()[0]) << 10 < self.megabytes * MEBIBYTE // 2

    def sleeps_still(self) -> None:
        """Raise AssertionError unless it has slept since the night began, with its memory out."""
        status = self.status
        assert (State.Name(status.state), status.restores) == ("STANDBY", self.restores), status
        assert self.is_out(), f"its memory is not out: {status}"
        if self.megabytes >= BALLAST:
            assert status.memory_backend == self.backend, status.memory_why

    def is_whole(self) -> None:
        """Raise AssertionError unless it is the same process with the same memory."""
        if self.megabytes:
            assert self.tell("digest()") == subject.ballast(self.port, self.megabytes)
        assert self.status.pid == self.pid


@dataclass
class Scene:
    """What the situations of one backend share."""

    kubelet: cri.Cri
    client: containerd.Containerd
    backend: str
    directory: Path
    stack: ExitStack
    subjects: list[Subject] = field(default_factory=list)
    _port: int = 8000
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pod: cri.Pod | None = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(BACKGROUND))

    def annotations(self, **more: str) -> dict[str, str]:
        values = {"scaledown-duration": SCALEDOWN, "standby-memory": self.backend, **more}
        return {PREFIX + key.replace("_", "-"): patient_duration(value) for key, value in values.items()}

    @property
    def pod(self) -> cri.Pod:
        """The one that situations share."""
        with self._lock:
            if self._pod is None:
                self._pod = self.stack.enter_context(self.kubelet.pod(annotations=self.annotations()))
            return self._pod

    def own_pod(self, annotations: Mapping[str, str] | None = None, *, shared_pid: bool = False) -> cri.Pod:
        made = self.kubelet.pod(annotations=annotations or self.annotations(), shared_pid=shared_pid)
        return self.stack.enter_context(made)

    def port(self) -> int:
        with self._lock:
            self._port += 1
            return self._port

    def volume(self, name: str) -> Path:
        """A directory on the node, to be mounted."""
        path = self.directory / name
        path.mkdir()
        return path

    def subject(
        self,
        megabytes: int = BALLAST,
        *,
        pod: cri.Pod | None = None,
        night: bool = True,
        mounts: Mapping[str, str] | None = None,
        read_only_mounts: Mapping[str, str] | None = None,
        resources: v1.LinuxContainerResources | None = None,
        security: v1.LinuxContainerSecurityContext | None = None,
    ) -> Subject:
        """A subject in the scene's pod, or another one; it sleeps through the night with all others."""
        pod, port = pod or self.pod, self.port()
        container = pod.container(
            f"s{port}",
            PYTHON,
            args=("-c", PROGRAM, str(port), str(megabytes)),
            mounts=mounts,
            read_only_mounts=read_only_mounts,
            resources=resources,
            security=security,
        )
        return self._ready(Subject(container, "k8s.io", self.backend, pod.ip, port, megabytes), night)

    def task(self, client: containerd.Containerd | None = None, id: str = "", *, terminal: bool = False) -> Subject:
        """A subject in a container by itself, which has a network namespace with nothing but `lo`."""
        client, port = client or self.client, self.port()
        made = client.container(
            *("python3", "-c", PROGRAM, str(port), str(BALLAST)),
            runtime=OURS,
            image=PYTHON,
            id=id,
            stdin=terminal,
            terminal=terminal,
            annotations=self.annotations(),
        )
        task = self.stack.enter_context(made).run()
        network = f"/proc/{task.get().pid}/ns/net"
        return self._ready(Subject(task, client.namespace, self.backend, "127.0.0.1", port, BALLAST, network), True)

    def _ready(self, made: Subject, night: bool) -> Subject:
        def listens() -> bool:
            with suppress(OSError):
                made.connect().close()
                return True
            return False

        node.until(listens, f"the subject {made.id[:12]} listens")
        made.pid = made.status.pid
        if night:
            with self._lock:
                self.subjects.append(made)
        return made

    def busybox(self, mounts: Mapping[str, str]) -> cri.Container:
        """A container in the scene's pod that does nothing by itself and never sleeps, for execs."""
        return self.pod.container(f"b{self.port()}", BUSYBOX, command=("sleep", "1000"), mounts=mounts)

    def background(self, work: Callable[[], _T]) -> Future[_T]:
        """Begin something that takes its time; the situation asks for the result later."""
        return self._pool.submit(work)

    def processes(self, id: str) -> Sequence[int]:
        """The pids that containerd lists for a container of a pod."""
        request = api.ListPidsRequest(container_id=id)
        with containerd.Containerd("k8s.io") as client:
            listed = client.tasks("ListPids", request, api.ListPidsResponse, TIMEOUT)
        return sorted(process.pid for process in listed.processes)

    def goodnight(self) -> None:
        """Return when all subjects have been in STANDBY for NIGHT seconds, with their memory out.

        One that does not sleep is left to its situation, which says so.
        """
        for each in self.subjects:
            with suppress(TimeoutError):
                each.standby()
        begun = time.monotonic()
        for each in self.subjects:
            with suppress(TimeoutError, LookupError):
                each.restores = each.status.restores
                node.until(each.is_out, f"the memory of {each.id[:12]} is out", 5)
        time.sleep(max(0.0, NIGHT - (time.monotonic() - begun)))
