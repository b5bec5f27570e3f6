"""Applications in containers on our runtime, made through CRI or through containerd's API, with the same face for both.

A container made through CRI has an address that the node reaches; one made through containerd's API has a network
namespace with nothing but `lo`, so its clients' sockets are opened inside.
"""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tests.integration import containerd, cri, node
from tests.integration.patience import patient_duration
from tests.integration.sleep.helpers import server, shims
from tests.integration.sleep.helpers.client import TIMEOUT, Session
from tests.node.images import IMAGES

from zeropod import paths
from zeropod.kernel.namespace import entered
from zeropod.rpc.messages.status_pb2 import ContainerStatus

OURS = "io.containerd.zeropod.v2"
PREFIX = "zeropod.ctrox.dev/"
ASLEEP = ("STANDBY", "COLD")
ENTRYPOINTS = {image.name: image.entrypoint for image in IMAGES}

Way = Literal["cri", "ctr"]


@dataclass(frozen=True, slots=True)
class Kind:
    """An application: its image, arguments beyond the image's own, and the port that it listens on."""

    name: str
    port: int
    args: tuple[str, ...] = ()

    @property
    def image(self) -> str:
        return f"localhost/{self.name}:test"

    @property
    def argv(self) -> tuple[str, ...]:
        return (*ENTRYPOINTS[self.image], *self.args)


REDIS = Kind("redis", 6379)
NGINX = Kind("nginx", 80)


def python(port: int = 8000, megabytes: int = 0, *more_ports: int) -> Kind:
    ports = ",".join(map(str, (port, *more_ports)))
    return Kind("python", port, ("-c", server.PROGRAM, ports, str(megabytes)))


KINDS = {kind.name: kind for kind in (REDIS, NGINX, python())}


def answers(session: Session, kind: Kind) -> bool:
    """Whether the application itself answers on this connection, correctly."""
    match kind.name:
        case "redis":
            return session.redis("PING") == b"PONG"
        case "nginx":
            return session.get() == "hello from nginx\n"
        case _:
            return session.ask("echo here I am") == "here I am"


@dataclass(frozen=True)
class App:
    """An application that runs in a container, awake or asleep."""

    kind: Kind
    container: cri.Container | containerd.Container

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def namespace(self) -> str:
        """containerd's namespace that it is in."""
        return "k8s.io" if isinstance(self.container, cri.Container) else self.container.client.namespace

    @property
    def bundle(self) -> str:
        if isinstance(self.container, cri.Container):
            return f"{node.TASKS}/k8s.io/{self.id}"
        return self.container.bundle

    @property
    def images(self) -> str:
        """The directory of its checkpoint."""
        return str(paths.container(self.namespace, self.id) / "images")

    @cached_property
    def spec(self) -> dict[str, Any]:
        with open(os.path.join(self.bundle, "config.json")) as file:
            spec: dict[str, Any] = json.load(file)
        return spec

    @cached_property
    def _never_stands_by(self) -> bool:
        values = self.spec.get("annotations") or {}
        return values.get(f"{PREFIX}standby") == "false" or values.get(f"{PREFIX}disable-checkpointing") == "true"

    @cached_property
    def network(self) -> str:
        """The path of its network namespace; without one in its bundle it is the process's own, and goes with it."""
        namespaces = {entry["type"]: entry.get("path", "") for entry in self.spec["linux"]["namespaces"]}
        if not namespaces["network"] and isinstance(self.container, containerd.Container):
            return f"/proc/{self.container.get().pid}/ns/net"
        return str(namespaces["network"])

    @cached_property
    def address(self) -> str:
        return self.container.pod.ip if isinstance(self.container, cri.Container) else ""

    def connect(self, host: str = "", port: int = 0) -> Session:
        """A new connection to the application; with a `host`, from inside its network namespace."""
        port = port or self.kind.port
        if self.address and not host:
            return Session(socket.create_connection((self.address, port), TIMEOUT))
        with entered(self.network):
            return Session(socket.create_connection((host or "127.0.0.1", port), TIMEOUT))

    def ready(self) -> "App":
        """Wait until it answers for the first time."""

        def answered() -> bool:
            try:
                with self.connect() as session:
                    return answers(session, self.kind)
            except (OSError, EOFError):
                return False

        node.until(answered, f"{self.kind.name} in {self.id} answers")
        return self

    def output(self) -> str:
        """What it has written so far, to standard output and standard error."""
        if isinstance(self.container, cri.Container):
            return self.container.logs()
        stderr = self.container.streams.stderr
        return (self.container.streams.stdout.data + (stderr.data if stderr else b"")).decode()

    def running(self) -> bool:
        """Whether containerd believes that it runs."""
        if isinstance(self.container, cri.Container):
            return self.container.state == "RUNNING"
        return self.container.status() == "RUNNING"

    def exit_code(self) -> int:
        """Once it has exited."""
        if isinstance(self.container, cri.Container):
            return self.container.wait().exit_code
        return self.container.wait()

    @property
    def status(self) -> ContainerStatus:
        return shims.status(self.id)

    @property
    def state(self) -> str:
        return shims.state(self.id)

    def asleep(self, timeout: float = 15.0) -> ContainerStatus:
        """Wait until it sleeps, as deep as its annotations say."""
        return shims.until_state(self.id, "COLD" if self._never_stands_by else ASLEEP, timeout)

    def standby(self, timeout: float = 15.0) -> ContainerStatus:
        return shims.until_state(self.id, "STANDBY", timeout)

    def cold(self, timeout: float = 15.0) -> ContainerStatus:
        return shims.until_state(self.id, "COLD", timeout)

    def awake(self, timeout: float = 15.0) -> ContainerStatus:
        return shims.until_state(self.id, "RUNNING", timeout)


class Stage:
    """Makes pods and applications that end with the test. `annotations` are what all of them get."""

    def __init__(
        self, client: containerd.Containerd, kubelet: cri.Cri, annotations: Mapping[str, str] | None = None
    ) -> None:
        self.client = client
        self.kubelet = kubelet
        self.stack = ExitStack()
        self._common = dict(annotations or {})

    def pod(self, scaledown: str = "300ms", annotations: Mapping[str, str] | None = None, **settings: Any) -> cri.Pod:
        return self.stack.enter_context(
            self.kubelet.pod(annotations=self._annotations(scaledown, annotations), **settings)
        )

    def add(self, pod: cri.Pod, kind: Kind, *, name: str = "", **settings: Any) -> App:
        """Another application in the pod."""
        return App(kind, pod.container(name or kind.name, kind.image, args=kind.args, **settings)).ready()

    def task(
        self, kind: Kind, scaledown: str = "300ms", annotations: Mapping[str, str] | None = None, **settings: Any
    ) -> App:
        """An application in a container of its own, without a pod."""
        made = self.client.container(
            *kind.argv,
            runtime=OURS,
            image=kind.image,
            annotations=self._annotations(scaledown, annotations),
            **settings,
        )
        return App(kind, self.stack.enter_context(made).run()).ready()

    def app(self, way: Way, kind: Kind, scaledown: str = "300ms", annotations: Mapping[str, str] | None = None) -> App:
        """An application by itself, either way."""
        if way == "ctr":
            return self.task(kind, scaledown, annotations)
        return self.add(self.pod(scaledown, annotations), kind)

    def _annotations(self, scaledown: str, more: Mapping[str, str] | None) -> dict[str, str]:
        values = {"scaledown-duration": scaledown, **self._common, **(more or {})}
        return {PREFIX + key: patient_duration(value) for key, value in values.items()}
