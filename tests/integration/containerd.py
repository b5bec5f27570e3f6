"""containerd's API as the tests use it: containers, tasks, events, without `ctr` in between.

`Containerd` is a connection for one containerd namespace; `Container` is a container with its snapshot, task and
streams, and takes away everything it made. `ctr` (ctr.py) shows most of this too, but not exact error codes, states and
the order of events.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, TypeVar

from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from tests.integration.endpoint import ADDRESS, TIMEOUT, Endpoint, Refused
from tests.integration.patience import patient
from tests.integration.protos import containerd_services_pb2 as api
from tests.integration.streams import Streams

from zeropod.rpc.messages import events_pb2, process_pb2, runc_options_pb2, types_pb2

SNAPSHOTTER = "overlayfs"

SHARES_333 = ("333", "13", "42")
"""333 CPU shares in a cgroup file: as version 1 has them, and as a weight by runc's older and its newer conversion."""

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_M = TypeVar("_M", bound=Message)
Spec = dict[str, Any]


def packed_json(kind: str, value: object) -> PackedAny:
    """A part of the OCI runtime specification (Spec, Process, LinuxResources) as containerd carries it."""
    return PackedAny(type_url=SPEC + kind, value=json.dumps(value).encode())


def packed(type_url: str, message: Message) -> PackedAny:
    return PackedAny(type_url=type_url, value=message.SerializeToString())


@cache
def default_spec() -> str:
    """containerd's default OCI spec, in JSON."""
    return subprocess.run(
        ["ctr", "oci", "spec"], check=True, capture_output=True, text=True, timeout=patient(20)
    ).stdout


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a task: the topic without `/tasks/`, and its message."""

    topic: str
    message: Any

    @property
    def container(self) -> str:
        return str(self.message.container_id)

    @property
    def process(self) -> str:
        """The exec's id, or the container's for its init."""
        for name in ("exec_id", "id"):
            if value := getattr(self.message, name, ""):
                return str(value)
        return self.container


class Events:
    """The task events of a namespace from the moment it was made."""

    def __init__(self, endpoint: Endpoint, namespace: str) -> None:
        request = api.SubscribeRequest(filters=[f'namespace=={namespace},topic~="^/tasks/"'])
        self._stream = endpoint.stream("/containerd.services.events.v1.Events/Subscribe", request, types_pb2.Envelope)
        self._lock = threading.Condition()
        self._seen: list[Event] = []
        self._thread = threading.Thread(target=self._read, name="events", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for envelope in self._stream:
                kind = getattr(events_pb2, envelope.event.type_url.rpartition(".")[2])
                event = Event(envelope.topic.removeprefix("/tasks/"), kind.FromString(envelope.event.value))
                with self._lock:
                    self._seen.append(event)
                    self._lock.notify_all()
        except Refused:  # cancelled, or containerd is gone
            return

    def of(self, container: str) -> list[Event]:
        with self._lock:
            return [event for event in self._seen if event.container == container]

    def until(self, container: str, topic: str, count: int = 1, timeout: float = 15.0) -> list[Event]:
        """This container's events once `count` with this topic are among them. Raises TimeoutError."""

        def there() -> bool:
            return sum(event.container == container and event.topic == topic for event in self._seen) >= count

        with self._lock:
            if not self._lock.wait_for(there, patient(timeout)):
                topics = [event.topic for event in self._seen if event.container == container]
                raise TimeoutError(f"no {topic} event of {container} in {timeout} s, only {topics}")
        return self.of(container)

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join(5)


class Containerd:
    """Methods raise Refused with gRPC's code and containerd's message."""

    def __init__(self, namespace: str = "default", address: str = ADDRESS) -> None:
        self.namespace = namespace
        self._endpoint = Endpoint(address, (("containerd-namespace", namespace),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._endpoint.close()

    def tasks(self, method: str, request: Message, answer: type[_M], timeout: float = TIMEOUT) -> _M:
        return self._endpoint.call(f"/containerd.services.tasks.v1.Tasks/{method}", request, answer, timeout)

    def call(self, method: str, request: Message, answer: type[_M]) -> _M:
        return self._endpoint.call(f"/containerd.services.{method}", request, answer)

    @contextmanager
    def events(self) -> Iterator[Events]:
        """The task events from now on."""
        events = Events(self._endpoint, self.namespace)
        try:
            # Subscribing is not acknowledged, and nothing that is published before it is seen: ask for something that
            # is answered later than the stream's request was sent, and then a little.
            self.call("containers.v1.Containers/List", api.ListContainersRequest(), api.ListContainersResponse)
            time.sleep(0.02)
            yield events
        finally:
            events.close()

    def read_content(self, digest: str) -> bytes:
        request = api.ReadContentRequest(digest=digest)
        stream = self._endpoint.stream(
            "/containerd.services.content.v1.Content/Read", request, api.ReadContentResponse, TIMEOUT
        )
        return b"".join(part.data for part in stream)

    def chain_id(self, image: str) -> str:
        """The name of the committed snapshot with all layers of this image."""
        found = self.call("images.v1.Images/Get", api.GetImageRequest(name=image), api.GetImageResponse)
        manifest = json.loads(self.read_content(found.image.target.digest))
        layers = json.loads(self.read_content(manifest["config"]["digest"]))["rootfs"]["diff_ids"]
        chain: str = layers[0]
        for layer in layers[1:]:
            chain = "sha256:" + hashlib.sha256(f"{chain} {layer}".encode()).hexdigest()
        return chain

    def container(self, *args: str, **settings: Any) -> "Container":
        """A container that runs `args`; see Container for the settings."""
        return Container(self, args, **settings)


class Container:
    """A container, its task, and what is needed for them. Its context ends with all of it gone.

    `spec` changes the OCI spec before use. `options` are runc's. `stdin` makes a fifo for it; `stdout` is a log URI or
    a path to use in place of fifos, for both outputs.
    """

    def __init__(
        self,
        client: Containerd,
        args: Sequence[str],
        *,
        runtime: str,
        image: str = "localhost/redis:test",
        id: str = "",
        stdin: bool = False,
        terminal: bool = False,
        stdout: str = "",
        annotations: Mapping[str, str] | None = None,
        options: runc_options_pb2.Options | None = None,
        spec: Callable[[Spec], None] = lambda spec: None,
    ) -> None:
        self.client = client
        self.id = id or f"c-{uuid.uuid4().hex[:12]}"
        self.runtime = runtime
        self.image = image
        self.terminal = terminal
        self.options = packed("containerd.runc.v1.Options", options or runc_options_pb2.Options())
        self.spec = self._spec(args, annotations or {})
        spec(self.spec)
        self.directory = tempfile.mkdtemp(prefix=f"{self.id}-", dir="/run")
        self._stdin, self._stdout = stdin, stdout
        self._streams: list[Streams] = []
        self._init: Streams | None = None
        self.rootfs: list[types_pb2.Mount] = []

    def _spec(self, args: Sequence[str], annotations: Mapping[str, str]) -> Spec:
        spec: Spec = json.loads(default_spec())
        spec["process"] |= {"args": list(args), "env": [PATH], "terminal": self.terminal}
        spec["linux"]["cgroupsPath"] = f"/{self.client.namespace}/{self.id}"
        spec["annotations"] = dict(annotations)
        return spec

    def __enter__(self) -> Self:
        try:
            self._prepare()
        except BaseException:
            self.remove()
            raise
        return self

    def _prepare(self) -> None:
        snapshot = api.PrepareSnapshotRequest(
            snapshotter=SNAPSHOTTER,
            key=self.id,
            parent=self.client.chain_id(self.image),
            # Nothing refers to it before the container does.
            labels={"containerd.io/gc.root": "2026-01-01T00:00:00Z"},
        )
        prepared = self.client.call("snapshots.v1.Snapshots/Prepare", snapshot, api.PrepareSnapshotResponse)
        self.rootfs = list(prepared.mounts)
        container = api.Container(
            id=self.id,
            image=self.image,
            runtime=api.Container.Runtime(name=self.runtime, options=self.options),
            spec=packed_json("Spec", self.spec),
            snapshotter=SNAPSHOTTER,
            snapshot_key=self.id,
        )
        self.client.call(
            "containers.v1.Containers/Create",
            api.CreateContainerRequest(container=container),
            api.CreateContainerResponse,
        )

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        problems = self.remove()
        if problems and error is None:
            raise AssertionError("; ".join(problems))
        if error is not None:
            for problem in problems:
                error.add_note(f"clean-up: {problem}")

    def remove(self) -> list[str]:
        """End the task whatever state it is in, and remove everything; what refused to go, in words."""
        problems = []
        if (problem := self._end_task()) is not None:
            problems.append(problem)
        for method, request in (
            ("containers.v1.Containers/Delete", api.DeleteContainerRequest(id=self.id)),
            ("snapshots.v1.Snapshots/Remove", api.RemoveSnapshotRequest(snapshotter=SNAPSHOTTER, key=self.id)),
        ):
            try:
                self.client.call(method, request, Empty)
            except Refused as refused:
                if refused.code != "NOT_FOUND":
                    problems.append(f"{method} of {self.id}: {refused}")
        for streams in self._streams:
            streams.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        return problems

    def _end_task(self, timeout: float = 15.0) -> str | None:
        deadline = time.monotonic() + patient(timeout)
        while True:
            try:
                status = self.status()
                if status == "PAUSED":
                    self.resume()
                if status not in ("STOPPED", "UNKNOWN"):
                    self.kill(signal.SIGKILL, all=True)
                    self.wait(timeout=5)
                self.delete()
                return None
            except Refused as refused:
                if refused.code == "NOT_FOUND":
                    return None
                if time.monotonic() > deadline:
                    return f"the task of {self.id} does not end: {refused}"
                time.sleep(0.1)

    # The task

    def create(self) -> int:
        """Create the task; the pid of its init."""
        if self._stdout:
            paths = {"stdout": self._stdout, "stderr": self._stdout}
        else:
            self._init = self.open_streams("init", stdin=self._stdin, terminal=self.terminal)
            paths = self._init.paths()
        request = api.CreateTaskRequest(
            container_id=self.id,
            rootfs=self.rootfs,
            terminal=self.terminal,
            options=self.options,
            stdin=paths.get("stdin", ""),
            stdout=paths.get("stdout", ""),
            stderr=paths.get("stderr", ""),
        )
        return self.client.tasks("Create", request, api.CreateTaskResponse).pid

    @property
    def streams(self) -> Streams:
        """Of the task's init; a task created anew has new ones."""
        assert self._init is not None, f"{self.id} has no task with fifos"
        return self._init

    def open_streams(self, name: str, *, stdin: bool, terminal: bool) -> Streams:
        """Streams that are closed with the container."""
        directory = os.path.join(self.directory, str(len(self._streams)))
        os.mkdir(directory)
        self._streams.append(Streams(directory, name, stdin=stdin, terminal=terminal))
        return self._streams[-1]

    def start(self, exec_id: str = "") -> int:
        request = api.StartRequest(container_id=self.id, exec_id=exec_id)
        return self.client.tasks("Start", request, api.StartResponse).pid

    def run(self) -> Self:
        """Create and start the task."""
        self.create()
        self.start()
        return self

    def exec(self, exec_id: str, *args: str, **settings: Any) -> "Exec":
        """Add a process; see Exec for the settings."""
        return Exec(self, exec_id, args, **settings)

    def wait(self, exec_id: str = "", timeout: float = TIMEOUT) -> int:
        """The exit status."""
        request = api.WaitRequest(container_id=self.id, exec_id=exec_id)
        return self.client.tasks("Wait", request, api.WaitResponse, timeout).exit_status

    def kill(self, number: int, exec_id: str = "", *, all: bool = False) -> None:
        request = api.KillRequest(container_id=self.id, exec_id=exec_id, signal=number, all=all)
        self.client.tasks("Kill", request, Empty)

    def delete(self) -> api.DeleteResponse:
        return self.client.tasks("Delete", api.DeleteTaskRequest(container_id=self.id), api.DeleteResponse)

    def get(self, exec_id: str = "") -> api.Process:
        request = api.GetRequest(container_id=self.id, exec_id=exec_id)
        return self.client.tasks("Get", request, api.GetResponse).process

    def status(self, exec_id: str = "") -> str:
        """CREATED, RUNNING, STOPPED, PAUSED, PAUSING or UNKNOWN."""
        return process_pb2.Status.Name(self.get(exec_id).status)

    def pause(self) -> None:
        self.client.tasks("Pause", api.PauseTaskRequest(container_id=self.id), Empty)

    def resume(self) -> None:
        self.client.tasks("Resume", api.ResumeTaskRequest(container_id=self.id), Empty)

    def pids(self) -> Sequence[process_pb2.ProcessInfo]:
        request = api.ListPidsRequest(container_id=self.id)
        return self.client.tasks("ListPids", request, api.ListPidsResponse).processes

    def resize(self, width: int, height: int, exec_id: str = "") -> None:
        request = api.ResizePtyRequest(container_id=self.id, exec_id=exec_id, width=width, height=height)
        self.client.tasks("ResizePty", request, Empty)

    def close_io(self, exec_id: str = "") -> None:
        request = api.CloseIORequest(container_id=self.id, exec_id=exec_id, stdin=True)
        self.client.tasks("CloseIO", request, Empty)

    def update(self, resources: Spec) -> None:
        """`resources` as in the OCI spec's linux.resources."""
        request = api.UpdateTaskRequest(container_id=self.id, resources=packed_json("LinuxResources", resources))
        self.client.tasks("Update", request, Empty)

    def metrics(self) -> PackedAny:
        """The cgroup's metrics, packed."""
        request = api.MetricsRequest(filters=[f"id=={self.id}"])
        found = self.client.tasks("Metrics", request, api.MetricsResponse).metrics
        if not found:
            raise Refused("NOT_FOUND", f"no metrics of {self.id}")
        return found[0].data

    def checkpoint(self, options: runc_options_pb2.CheckpointOptions) -> Sequence[api.Descriptor]:
        request = api.CheckpointTaskRequest(
            container_id=self.id, options=packed("containerd.runc.v1.CheckpointOptions", options)
        )
        return self.client.tasks("Checkpoint", request, api.CheckpointTaskResponse).descriptors

    # What it is on the node

    @property
    def bundle(self) -> str:
        return f"/run/containerd/io.containerd.runtime.v2.task/{self.client.namespace}/{self.id}"

    def cgroup_file(self, controller: str, name: str, unified: str = "") -> str:
        """The content of a file in the container's cgroup; `unified` is its name on a version 2 node, if another."""
        relative = f"{self.client.namespace}/{self.id}"
        for path in (
            f"/sys/fs/cgroup/{controller}/{relative}/{name}",
            f"/sys/fs/cgroup/{relative}/{unified or name}",
        ):
            if os.path.exists(path):
                with open(path) as file:
                    return file.read().strip()
        raise FileNotFoundError(f"no {name} in the {controller} cgroup of {self.id}")


class Exec:
    """A process added to a running container. The container's context closes its streams."""

    def __init__(
        self,
        container: Container,
        exec_id: str,
        args: Sequence[str],
        *,
        stdin: bool = False,
        terminal: bool = False,
        process: Callable[[Spec], None] = lambda process: None,
    ) -> None:
        self.container = container
        self.id = exec_id
        self.streams = container.open_streams(exec_id, stdin=stdin, terminal=terminal)
        described: Spec = {**container.spec["process"], "args": list(args), "terminal": terminal}
        process(described)
        request = api.ExecProcessRequest(
            container_id=container.id,
            exec_id=exec_id,
            terminal=terminal,
            spec=packed_json("Process", described),
            **self.streams.paths(),
        )
        container.client.tasks("Exec", request, Empty)

    def start(self) -> int:
        return self.container.start(self.id)

    def run(self) -> Self:
        self.start()
        return self

    def wait(self, timeout: float = TIMEOUT) -> int:
        return self.container.wait(self.id, timeout)

    def kill(self, number: int) -> None:
        self.container.kill(number, self.id)

    def status(self) -> str:
        return self.container.status(self.id)

    def close_io(self) -> None:
        self.container.close_io(self.id)

    def delete(self) -> api.DeleteResponse:
        request = api.DeleteProcessRequest(container_id=self.container.id, exec_id=self.id)
        return self.container.client.tasks("DeleteProcess", request, api.DeleteResponse)
