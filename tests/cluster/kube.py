"""The cluster's API for start-up and tests: objects over HTTP, since kubectl takes a quarter of a second of CPU each
time, and kubectl for what only a command line does. Waiting always has an end.
"""

import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.cluster.pki import ADMIN
from tests.integration.patience import patient

POLL = 0.1
TIMEOUT = 60.0

GROUPS = {
    "daemonsets": "apps/v1",
    "deployments": "apps/v1",
    "replicasets": "apps/v1",
    "statefulsets": "apps/v1",
    "jobs": "batch/v1",
    "runtimeclasses": "node.k8s.io/v1",
    "clusterrolebindings": "rbac.authorization.k8s.io/v1",
    "poddisruptionbudgets": "policy/v1",
}
"""The API group of every kind that is not in the core."""
KINDS = {
    "clusterrolebindings": "ClusterRoleBinding",
    "configmaps": "ConfigMap",
    "daemonsets": "DaemonSet",
    "deployments": "Deployment",
    "jobs": "Job",
    "limitranges": "LimitRange",
    "namespaces": "Namespace",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "pods": "Pod",
    "secrets": "Secret",
    "services": "Service",
    "statefulsets": "StatefulSet",
}

Object = dict[str, Any]
_T = TypeVar("_T")


class ApiError(Exception):
    """The API server refuses, or does not answer (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One connection of one client of the API server, made anew when it breaks."""

    def __init__(self, kubeconfig: Path = ADMIN) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self._host = cluster["server"].removeprefix("https://")
        self._connection: http.client.HTTPSConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def text(self, method: str, path: str, body: object = None, kind: str = "application/json") -> str:
        """What the server answers. Raises ApiError."""
        data = None if body is None else json.dumps(body)
        for attempt in (1, 2):
            if self._connection is None:
                self._connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=patient(TIMEOUT))
            try:
                self._connection.request(method, path, data, {"Content-Type": kind, "Accept": "application/json"})
                response = self._connection.getresponse()
                answer = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # What was kept open may have been closed meanwhile.
                if attempt == 2:
                    raise ApiError(0, str(error)) from error
            else:
                if response.status >= 300:
                    raise ApiError(response.status, answer[:2000])
                return answer
        raise AssertionError("unreachable")

    def answers(self, path: str) -> bool:
        """Whether something is there, and the server as well."""
        try:
            self.text("GET", path)
        except ApiError:
            return False
        return True

    def get(self, kind: str, name: str = "", namespace: str = "", query: str = "") -> Object:
        """An object, or all of a kind in `items`."""
        found: Object = json.loads(self.text("GET", _path(kind, namespace, name) + query))
        return found

    def create(self, kind: str, body: Mapping[str, Any], namespace: str = "") -> Object:
        identified = {"apiVersion": GROUPS.get(kind, "v1"), "kind": KINDS[kind], **body}
        made: Object = json.loads(self.text("POST", _path(kind, namespace), identified))
        return made

    def patch(self, kind: str, name: str, body: Mapping[str, Any], namespace: str = "", part: str = "") -> Object:
        path = _path(kind, namespace, name) + (f"/{part}" if part else "")
        kind_of_patch = "application/strategic-merge-patch+json"
        changed: Object = json.loads(self.text("PATCH", path, body, kind_of_patch))
        return changed

    def delete(self, kind: str, name: str, namespace: str = "", grace: int | None = None) -> None:
        body = {} if grace is None else {"gracePeriodSeconds": grace}
        self.text("DELETE", _path(kind, namespace, name), {"propagationPolicy": "Background", **body})


def _path(kind: str, namespace: str = "", name: str = "") -> str:
    group = GROUPS.get(kind, "v1")
    parts = ["/apis" if "/" in group else "/api", group]
    parts += ["namespaces", namespace] if namespace else []
    return "/".join([*parts, kind, *([name] if name else [])])


class KubectlError(Exception):
    """kubectl has failed; its own words."""


def kubectl(*arguments: str, stdin: str | None = None, timeout: float = TIMEOUT) -> str:
    """What kubectl prints. Raises KubectlError, TimeoutExpired."""
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=patient(timeout), check=False
    )
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(arguments)}: {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def until(condition: Callable[[], _T | None], what: str, seconds: float = 30.0) -> _T:
    """The first answer of `condition` that is true. Raises TimeoutError, with what it has answered last."""
    deadline = time.monotonic() + patient(seconds)
    answer: object = None
    while True:
        with suppress(ApiError):
            if answer := condition():
                return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {patient(seconds):.0f} s: {what}; last: {answer!r}")
        time.sleep(POLL)
