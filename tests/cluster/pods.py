"""What tests apply, and what they ask of it: a namespace for each test, pods in it, and their state on the node."""

import contextlib
import glob
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from tests.cluster import app
from tests.cluster.components import ADDRESSES
from tests.cluster.kube import Api, ApiError, Object, kubectl, until
from tests.integration.endpoint import Refused
from tests.integration.patience import patient, patient_duration
from tests.integration.shimsocket import ShimSocket

from zeropod import paths
from zeropod.manager.ps import as_dict
from zeropod.rpc.messages.status_pb2 import ListRequest, ListResponse

PREFIX = "zeropod.ctrox.dev"
SOURCE = Path(app.__file__).read_text()
ASLEEP = ("STANDBY", "COLD")
NODE = ADDRESSES[1]
PORT = 8080
SECONDS = 40.0
"""In which a pod starts, falls asleep, or is gone, on a machine that others keep busy as well."""


def container(name: str = "main", image: str = "python", **more: Any) -> Object:
    """A container of one of the test images; one of Python runs the tests' application."""
    made: Object = {"name": name, "image": f"localhost/{image}:test", "imagePullPolicy": "Never", **more}
    if image == "python" and not {"command", "args"} & more.keys():
        made["command"] = ["python3", "-c", SOURCE]
        made.setdefault("env", [])
        if not any(entry["name"] == "PORTS" for entry in made["env"]):
            made["readinessProbe"] = made.get("readinessProbe", {"tcpSocket": {"port": PORT}, "periodSeconds": 1})
    return made


def environment(**values: object) -> list[Object]:
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def annotations(**ours: object) -> dict[str, str]:
    """zeropod's, by their names with underscores; asleep after a second unless they say otherwise."""
    wanted = {"scaledown_duration": "1s"} | ours
    return {
        f"{PREFIX}/{name.replace('_', '-')}": patient_duration(str(value))
        for name, value in wanted.items()
        if value is not None
    }


def template(
    *containers: Object,
    labels: Mapping[str, str] | None = None,
    annotated: Mapping[str, str] | None = None,
    runtime: str | None = "zeropod",
    **spec: Any,
) -> Object:
    """A pod's metadata and specification."""
    inner = {"containers": list(containers or [container()]), "terminationGracePeriodSeconds": 5, **spec}
    if runtime:
        inner["runtimeClassName"] = runtime
    chosen = annotations() if annotated is None else dict(annotated)
    return {"metadata": {"labels": dict(labels or {}), "annotations": chosen}, "spec": inner}


class States:
    """What the shims of this node say when they are asked, in the words of `zeropod ps --json`."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def of(self, namespace: str, pod: str, container: str) -> Object:
        """The newest container of this name; empty where there is none."""
        known = self._known.get((namespace, pod))
        said = (_said(known) if known else []) or self.all_in(namespace)
        found = [each for each in said if (each["pod"], each["container"]) == (pod, container)]
        return max(found, key=lambda each: float(each["since"]), default={})

    def socket_of(self, namespace: str, pod: str) -> str:
        """The socket of a pod's shim. Raises KeyError for a pod that was never asked about."""
        return self._known[(namespace, pod)]

    def all_in(self, namespace: str) -> list[Object]:
        found = []
        for socket in glob.glob(f"{paths.STATUS_SOCKETS}/*.sock"):
            for each in _said(socket):
                if each["namespace"] == namespace:
                    self._known[(namespace, each["pod"])] = socket
                    found.append(each)
        return found


def _said(socket: str) -> list[Object]:
    """What one shim says of its containers; nothing if it is gone."""
    try:
        with ShimSocket(socket) as shim:
            answer = shim.call("List", ListRequest(), ListResponse, "zeropod.v1.Status")
    except (OSError, Refused):
        return []
    return [as_dict(each) for each in answer.containers]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str
    seconds: float


class Client:
    """A connection over HTTP that is kept, as a client of a Service has one."""

    def __init__(self, address: str, port: int, timeout: float = 20.0) -> None:
        self._connection = http.client.HTTPConnection(address, port, timeout=patient(timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, path: str = "/", body: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        begun = time.monotonic()
        self._connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        response = self._connection.getresponse()
        text = response.read().decode()
        return Answer(response.status, text, time.monotonic() - begun)


def ask(address: str, port: int = PORT, path: str = "/", body: str | None = None, timeout: float = 20.0) -> Answer:
    """One request on a connection of its own."""
    with Client(address, port, timeout) as client:
        return client.ask(path, body)


@dataclass(frozen=True, slots=True)
class Pod:
    place: "Place"
    name: str

    @property
    def now(self) -> Object:
        return self.place.api.get("pods", self.name, self.place.name)

    @property
    def ip(self) -> str:
        return str(self.now["status"]["podIP"])

    def says(self, container: str = "main") -> Object:
        """What the shim says of a container."""
        return self.place.states.of(self.place.name, self.name, container)

    def state(self, container: str = "main") -> str:
        return str(self.says(container).get("state"))

    def status(self, container: str = "main") -> Object:
        """What the kubelet says of a container."""
        status = self.now["status"]
        kinds = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
        return next((each for kind in kinds for each in status.get(kind, ()) if each["name"] == container), {})

    def restarts(self, container: str = "main") -> int:
        return int(self.status(container)["restartCount"])

    def is_ready(self) -> bool:
        conditions = self.now["status"].get("conditions", ())
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def until_ready(self, seconds: float = SECONDS) -> Self:
        until(self.is_ready, f"{self.name} is ready", seconds)
        return self

    def until_asleep(self, *containers: str, seconds: float = SECONDS) -> Self:
        for each in containers or ("main",):
            until(partial(self.sleeps, each), f"{self.name}/{each} sleeps", seconds)
        return self

    def sleeps(self, container: str = "main") -> bool:
        return self.state(container) in ASLEEP

    def until_awake(self, container: str = "main", seconds: float = 10.0) -> Self:
        until(lambda: self.state(container) == "RUNNING", f"{self.name}/{container} is awake", seconds)
        return self

    def stays(self, *states: str, container: str = "main", seconds: float = 10.0) -> None:
        """Asserts that it is in one of these states all the time."""
        deadline = time.monotonic() + patient(seconds)
        while time.monotonic() < deadline:
            said = self.says(container)
            assert said.get("state") in states, said
            time.sleep(0.1)

    def until_gone(self, seconds: float = SECONDS) -> None:
        until(lambda: not self.exists(), f"{self.name} is gone", seconds)

    def exists(self) -> bool:
        return self.place.api.answers(f"/api/v1/namespaces/{self.place.name}/pods/{self.name}")

    def delete(self, grace: int | None = None) -> None:
        self.place.api.delete("pods", self.name, self.place.name, grace)

    def exec(self, *command: str, container: str = "main", stdin: str | None = None) -> str:
        interactive = ["-i"] if stdin is not None else []
        options = [*interactive, "-c", container, self.name, "--"]
        return self.place.kubectl("exec", *options, *command, stdin=stdin)

    def logs(self, container: str = "main") -> str:
        return self.place.api.text(
            "GET", f"/api/v1/namespaces/{self.place.name}/pods/{self.name}/log?container={container}"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace of a test's own."""

    api: Api
    states: States
    name: str

    def create(self, kind: str, name: str, **body: Any) -> Object:
        metadata = {"name": name, **body.pop("metadata", {})}
        return self.api.create(kind, {"metadata": metadata, **body}, self.name)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        return kubectl("-n", self.name, *arguments, stdin=stdin, timeout=timeout)

    def pod(self, name: str, *containers: Object, ready: bool = True, **more: Any) -> Pod:
        """Create a pod and wait until it is ready, unless told not to."""
        # The service account follows the namespace.
        until(lambda: self.api.answers(f"/api/v1/namespaces/{self.name}/serviceaccounts/default"), "an account", 20)
        made = template(*containers, labels={"app": name, **more.pop("labels", {})}, **more)
        self.create("pods", name, **made)
        pod = Pod(self, name)
        return pod.until_ready() if ready else pod

    def deployment(self, name: str, *containers: Object, replicas: int = 1, **more: Any) -> None:
        labels = {"app": name}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, **more.pop("deployment", {})}
        self.create("deployments", name, spec={**spec, "template": template(*containers, labels=labels, **more)})

    def pods(self, app: str) -> list[Pod]:
        """Those that are not on their way out."""
        found = self.api.get("pods", namespace=self.name, query=f"?labelSelector=app%3D{app}")["items"]
        alive = [each for each in found if "deletionTimestamp" not in each["metadata"]]
        return [Pod(self, each["metadata"]["name"]) for each in alive]

    def ready_pods(self, app: str, count: int, seconds: float = SECONDS) -> list[Pod]:
        def ready() -> list[Pod] | None:
            found = self.pods(app)
            return found if len(found) == count and all(pod.is_ready() for pod in found) else None

        if count == 0:
            until(lambda: not self.pods(app), f"no pod of {app}", seconds)
            return []
        return until(ready, f"{count} pods of {app} are ready", seconds)

    def service(self, app: str, port: int = PORT, name: str = "", **spec: Any) -> Object:
        """A Service for the pods of this label; what it says of itself, once traffic gets through to a pod."""
        made = self.create("services", name or app, spec={"selector": {"app": app}, "ports": [{"port": port}], **spec})
        found: Object = made["spec"]
        return found

    def node_port(self, app: str, port: int = PORT) -> int:
        """A port of the node's that leads to the pods of this label."""
        return int(self.service(app, port, type="NodePort")["ports"][0]["nodePort"])

    def describe(self) -> str:
        """What a failed test wants to have known."""
        lines = [json.dumps(each) for each in self.states.all_in(self.name)]
        with contextlib.suppress(ApiError):
            pods = self.api.get("pods", namespace=self.name)["items"]
            lines += [f"{pod['metadata']['name']}: {json.dumps(pod['status'])[:3000]}" for pod in pods]
            events = self.api.get("events", namespace=self.name)["items"]
            lines += [
                f"{each['involvedObject'].get('name')}: {each['reason']}: {each.get('message')}" for each in events
            ]
        return "\n".join(lines)


def settle(address: str, port: int = PORT, count: int = 1, seconds: float = 20.0) -> None:
    """Wait until a Service has got as far as the node's rules: that `count` requests in a row are answered."""

    def answered() -> bool:
        try:
            return all(ask(address, port, timeout=2).status == 200 for _ in range(count))
        except OSError:
            return False

    until(answered, f"{address}:{port} answers", seconds)


def all_asleep(pods: Sequence[Pod], seconds: float = SECONDS) -> None:
    for pod in pods:
        pod.until_asleep(seconds=seconds)
