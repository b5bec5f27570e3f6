"""The bundle's config.json: what is read from it, and the few changes that a container needs to be able to sleep.

The bundle belongs to the shim. Restores read the file again, so what has changed since the creation (resource limits,
above all) is written back into it, or a restored container would fall back to its first limits.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeropod.runtime.errors import SpecError

CRI = "io.kubernetes.cri."
CONTAINER_TYPE = CRI + "container-type"
CONTAINER_NAME = CRI + "container-name"
SANDBOX_ID = CRI + "sandbox-id"
SANDBOX_NAME = CRI + "sandbox-name"
SANDBOX_NAMESPACE = CRI + "sandbox-namespace"


@dataclass(frozen=True, slots=True)
class Spec:
    """A view of one config.json; changes go through functions that return the new content."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, bundle: Path) -> "Spec":
        path = bundle / "config.json"
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise SpecError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise SpecError(f"{path} is not a JSON object")
        return cls(path, content)

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.content.get("annotations") or {}

    @property
    def namespaces(self) -> Mapping[str, str]:
        """Type of each namespace that the container gets, with the path it joins ("" for a new one)."""
        return {entry["type"]: entry.get("path", "") for entry in self._linux.get("namespaces") or ()}

    @property
    def bind_mounts(self) -> frozenset[str]:
        """Where in the container something of the host is mounted."""
        mounts = self.content.get("mounts") or ()
        return frozenset(mount["destination"] for mount in mounts if _is_bind(mount))

    @property
    def _linux(self) -> Mapping[str, Any]:
        return self.content.get("linux") or {}

    @property
    def is_sandbox(self) -> bool:
        return self.annotations.get(CONTAINER_TYPE) == "sandbox"

    @property
    def shares_pids(self) -> bool:
        """Whether killing init leaves other processes of the container alive (containerd's ShouldKillAllOnExit)."""
        return self.namespaces.get("pid", "shared") != ""

    def with_network(self, path: str) -> "Spec":
        """The same container in the network namespace at `path`."""
        namespaces = [entry for entry in self._linux["namespaces"] if entry["type"] != "network"]
        return self._with_linux(namespaces=[*namespaces, {"type": "network", "path": path}])

    def with_annotation(self, key: str, value: str) -> "Spec":
        return Spec(self.path, {**self.content, "annotations": {**self.annotations, key: value}})

    def with_resources(self, update: Mapping[str, Any]) -> "Spec":
        """The same container under updated limits; runc, too, changes only what an update names."""
        return self._with_linux(resources=_merged(self._linux.get("resources") or {}, update))

    def _with_linux(self, **changes: Any) -> "Spec":
        return Spec(self.path, {**self.content, "linux": {**self._linux, **changes}})

    def write(self) -> None:
        """Replaces the file at once: a reader sees the old or the new one."""
        temporary = self.path.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.content, file)
        temporary.replace(self.path)


def _is_bind(mount: Mapping[str, Any]) -> bool:
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options") or ())


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        result[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result
