"""A kubelet in small: pods and containers through containerd's Container Runtime Interface.

`Cri` is the runtime service method by method; `Pod` and `Container` are what a test or a demonstration works with, and
take away everything they made:

    with Cri() as cri, cri.pod(handler="zeropod", annotations={"zeropod.ctrox.dev/scaledown-duration": "1s"}) as pod:
        redis = pod.container("redis", "localhost/redis:test")
        connect((pod.ip, 6379))

Pods get the namespaces that Kubernetes gives them: network, IPC and UTS shared, a PID namespace for each container.
Leaves alone what Kubernetes adds above that: volumes, service accounts, probes.
"""

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import Message
from tests.integration import node
from tests.integration.endpoint import ADDRESS, TIMEOUT, Endpoint, Refused
from tests.integration.patience import patient
from tests.integration.protos import cri_v1_pb2 as v1

MAPPED = 1 << 17
"""The id on the node that root has in a pod with a user namespace of its own (`hostUsers: false`)."""

LOGS = "/var/log/pods"

_M = TypeVar("_M", bound=Message)


class Cri:
    """The runtime service. Every method raises Refused with what containerd says."""

    def __init__(self, address: str = ADDRESS) -> None:
        self._endpoint = Endpoint(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._endpoint.close()

    def call(self, method: str, request: Message, answer: type[_M], timeout: float = TIMEOUT) -> _M:
        return self._endpoint.call(f"/runtime.v1.RuntimeService/{method}", request, answer, timeout)

    def version(self) -> v1.VersionResponse:
        return self.call("Version", v1.VersionRequest(), v1.VersionResponse)

    def status(self, verbose: bool = False) -> v1.StatusResponse:
        return self.call("Status", v1.StatusRequest(verbose=verbose), v1.StatusResponse)

    def run_pod_sandbox(self, config: v1.PodSandboxConfig, handler: str = "") -> str:
        request = v1.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return self.call("RunPodSandbox", request, v1.RunPodSandboxResponse).pod_sandbox_id

    def stop_pod_sandbox(self, pod: str) -> None:
        self.call("StopPodSandbox", v1.StopPodSandboxRequest(pod_sandbox_id=pod), v1.StopPodSandboxResponse)

    def remove_pod_sandbox(self, pod: str) -> None:
        request = v1.RemovePodSandboxRequest(pod_sandbox_id=pod)
        self.call("RemovePodSandbox", request, v1.RemovePodSandboxResponse)

    def pod_sandbox_status(self, pod: str, verbose: bool = False) -> v1.PodSandboxStatusResponse:
        request = v1.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=verbose)
        return self.call("PodSandboxStatus", request, v1.PodSandboxStatusResponse)

    def pod_sandbox_stats(self, pod: str) -> v1.PodSandboxStats:
        request = v1.PodSandboxStatsRequest(pod_sandbox_id=pod)
        return self.call("PodSandboxStats", request, v1.PodSandboxStatsResponse).stats

    def create_container(self, pod: str, config: v1.ContainerConfig, sandbox: v1.PodSandboxConfig) -> str:
        request = v1.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
        return self.call("CreateContainer", request, v1.CreateContainerResponse).container_id

    def start_container(self, container: str) -> None:
        request = v1.StartContainerRequest(container_id=container)
        self.call("StartContainer", request, v1.StartContainerResponse)

    def stop_container(self, container: str, grace: int = 0) -> None:
        """SIGTERM (the image's stop signal), and SIGKILL after `grace` seconds; at once if that is 0."""
        request = v1.StopContainerRequest(container_id=container, timeout=grace)
        self.call("StopContainer", request, v1.StopContainerResponse, TIMEOUT + grace)

    def remove_container(self, container: str) -> None:
        request = v1.RemoveContainerRequest(container_id=container)
        self.call("RemoveContainer", request, v1.RemoveContainerResponse)

    def list_containers(self, pod: str = "") -> Sequence[v1.Container]:
        request = v1.ListContainersRequest(filter=v1.ContainerFilter(pod_sandbox_id=pod))
        return self.call("ListContainers", request, v1.ListContainersResponse).containers

    def container_status(self, container: str, verbose: bool = False) -> v1.ContainerStatusResponse:
        request = v1.ContainerStatusRequest(container_id=container, verbose=verbose)
        return self.call("ContainerStatus", request, v1.ContainerStatusResponse)

    def container_stats(self, container: str) -> v1.ContainerStats:
        request = v1.ContainerStatsRequest(container_id=container)
        return self.call("ContainerStats", request, v1.ContainerStatsResponse).stats

    def update_container_resources(self, container: str, resources: v1.LinuxContainerResources) -> None:
        request = v1.UpdateContainerResourcesRequest(container_id=container, linux=resources)
        self.call("UpdateContainerResources", request, v1.UpdateContainerResourcesResponse)

    def reopen_container_log(self, container: str) -> None:
        request = v1.ReopenContainerLogRequest(container_id=container)
        self.call("ReopenContainerLog", request, v1.ReopenContainerLogResponse)

    def exec_sync(self, container: str, command: Sequence[str], timeout: int = 20) -> v1.ExecSyncResponse:
        request = v1.ExecSyncRequest(container_id=container, cmd=command, timeout=round(patient(timeout)))
        return self.call("ExecSync", request, v1.ExecSyncResponse, TIMEOUT + timeout)

    def port_forward_url(self, pod: str, ports: Sequence[int]) -> str:
        request = v1.PortForwardRequest(pod_sandbox_id=pod, port=ports)
        return self.call("PortForward", request, v1.PortForwardResponse).url

    @contextmanager
    def pod(
        self,
        *,
        handler: str = "zeropod",
        name: str = "",
        uid: str = "",
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        host_network: bool = False,
        shared_pid: bool = False,
        user_namespace: bool = False,
        cgroup_parent: str = "",
        sysctls: Mapping[str, str] | None = None,
    ) -> Iterator["Pod"]:
        """A pod on this runtime handler; it and its containers are gone afterwards."""
        uid = uid or str(uuid.uuid4())
        name = name or f"pod-{uid[:8]}"
        namespaces = _namespaces(host_network, shared_pid, user_namespace)
        config = v1.PodSandboxConfig(
            metadata=v1.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
            hostname="" if host_network else name,
            log_directory=f"{LOGS}/{namespace}_{name}_{uid}",
            labels={
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
            },
            annotations=annotations or {},
            linux=v1.LinuxPodSandboxConfig(
                cgroup_parent=node.pods_parent(cgroup_parent, handler),
                security_context=v1.LinuxSandboxSecurityContext(namespace_options=namespaces),
                sysctls=sysctls or {},
            ),
        )
        os.makedirs(config.log_directory, exist_ok=True)
        try:
            pod = Pod(self, self.run_pod_sandbox(config, handler), config)
            with pod:
                yield pod
        finally:
            shutil.rmtree(config.log_directory, ignore_errors=bool(uid))  # of two pods that are one to Kubernetes


@dataclass(slots=True)
class Pod:
    """A running pod sandbox. Leaving its context stops and removes it and every container in it."""

    cri: Cri
    id: str
    config: v1.PodSandboxConfig
    containers: list["Container"] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        problems = self.remove()
        if problems and error is None:
            raise AssertionError("; ".join(problems))
        if error is not None:
            for problem in problems:
                error.add_note(f"clean-up: {problem}")

    def remove(self) -> list[str]:
        """Stop and remove all of it, whatever state it is in; what refused to go, in words."""
        problems = []
        for container in reversed(self.containers):
            try:
                container.remove()
            except Refused as refused:
                problems.append(f"container {container.name}: {refused}")
        for step in (self.cri.stop_pod_sandbox, self.cri.remove_pod_sandbox):
            try:
                step(self.id)
            except Refused as refused:
                problems.append(f"{step.__name__} {self.name}: {refused}")
        return problems

    @property
    def name(self) -> str:
        return self.config.metadata.name

    @property
    def status(self) -> v1.PodSandboxStatus:
        return self.cri.pod_sandbox_status(self.id).status

    @property
    def ip(self) -> str:
        """The pod's address; empty in the node's network."""
        return self.status.network.ip

    def container(
        self,
        name: str,
        image: str,
        *,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, str] | None = None,
        read_only_mounts: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        resources: v1.LinuxContainerResources | None = None,
        security: v1.LinuxContainerSecurityContext | None = None,
        working_dir: str = "",
        stdin: bool = False,
        tty: bool = False,
        privileged: bool = False,
        attempt: int = 0,
        start: bool = True,
    ) -> "Container":
        """Create a container in the pod and start it. `mounts` are node paths by their path in the container."""
        context = v1.LinuxContainerSecurityContext(
            namespace_options=self.config.linux.security_context.namespace_options, privileged=privileged
        )
        if security is not None:
            context.MergeFrom(security)
        config = v1.ContainerConfig(
            metadata=v1.ContainerMetadata(name=name, attempt=attempt),
            image=v1.ImageSpec(image=image),
            command=command,
            args=args,
            working_dir=working_dir,
            envs=[v1.KeyValue(key=key, value=value) for key, value in (env or {}).items()],
            mounts=[
                v1.Mount(container_path=inner, host_path=outer, readonly=readonly)
                for places, readonly in ((mounts, False), (read_only_mounts, True))
                for inner, outer in (places or {}).items()
            ],
            labels={**self.config.labels, "io.kubernetes.container.name": name},
            annotations=annotations or {},
            log_path=f"{name}/{attempt}.log",
            stdin=stdin,
            tty=tty,
            linux=v1.LinuxContainerConfig(resources=resources, security_context=context),
        )
        os.makedirs(os.path.join(self.config.log_directory, name), exist_ok=True)
        created = self.cri.create_container(self.id, config, self.config)
        container = Container(self, name, created, os.path.join(self.config.log_directory, config.log_path))
        self.containers.append(container)
        if start:
            container.start()
        return container


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod."""

    pod: Pod
    name: str
    id: str
    log: str
    """Path of its log file."""

    @property
    def cri(self) -> Cri:
        return self.pod.cri

    def start(self) -> None:
        self.cri.start_container(self.id)

    def stop(self, grace: int = 0) -> None:
        self.cri.stop_container(self.id, grace)

    def remove(self) -> None:
        """Stop it if need be, and remove it; nothing happens if it is gone."""
        with suppress_not_found():
            self.cri.stop_container(self.id)
        with suppress_not_found():
            self.cri.remove_container(self.id)
        if self in self.pod.containers:
            self.pod.containers.remove(self)

    @property
    def status(self) -> v1.ContainerStatus:
        return self.cri.container_status(self.id).status

    @property
    def state(self) -> str:
        """CREATED, RUNNING, EXITED or UNKNOWN."""
        return v1.ContainerState.Name(self.status.state).removeprefix("CONTAINER_")

    @property
    def stats(self) -> v1.ContainerStats:
        return self.cri.container_stats(self.id)

    def exec(self, *command: str, timeout: int = 20) -> v1.ExecSyncResponse:
        return self.cri.exec_sync(self.id, command, timeout)

    def wait(self, timeout: float = 20.0) -> v1.ContainerStatus:
        """The status once it has exited. Raises TimeoutError."""
        deadline = time.monotonic() + patient(timeout)
        while (status := self.status).state != v1.CONTAINER_EXITED:
            if time.monotonic() > deadline:
                state = v1.ContainerState.Name(status.state)
                raise TimeoutError(f"container {self.name} is {state} after {timeout} s")
            time.sleep(0.02)
        return status

    def records(self) -> list["Record"]:
        """The log file, line by line."""
        with open(self.log, encoding="utf-8") as file:
            return [Record(*line.rstrip("\n").split(" ", 3)) for line in file]

    def logs(self, stream: str = "") -> str:
        """What the container has written, to one stream ("stdout", "stderr") or to both."""
        return "".join(
            record.text + ("" if record.tag == "P" else "\n")
            for record in self.records()
            if stream in ("", record.stream)
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a container's log file: when, stdout or stderr, P(artial) or F(ull), and the text without line end."""

    time: str
    stream: str
    tag: str
    text: str


class suppress_not_found(suppress):  # noqa: N801
    """Ignores that something is gone already."""

    def __init__(self) -> None:
        super().__init__(Refused)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, Refused) and error.code == "NOT_FOUND"


def _namespaces(host_network: bool, shared_pid: bool, user_namespace: bool) -> v1.NamespaceOption:
    mapping = v1.IDMapping(host_id=MAPPED, container_id=0, length=65536)
    user = v1.UserNamespace(mode=v1.POD, uids=[mapping], gids=[mapping])
    return v1.NamespaceOption(
        userns_options=user if user_namespace else None,
        network=v1.NODE if host_network else v1.POD,
        pid=v1.POD if shared_pid else v1.CONTAINER,
        ipc=v1.POD,
    )
