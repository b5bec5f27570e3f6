"""The bundle's config.json: reading it, and the few changes that let a container sleep.

The bundle belongs to the shim. Restores read the file again, so later changes (above all of resource limits) are
written back into it; otherwise a restored container would fall back to its first limits.
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
SANDBOX_UID = CRI + "sandbox-uid"


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
        """The container's namespaces by type, with the path to join ("" for a new one)."""
        return {entry["type"]: entry.get("path", "") for entry in self._linux.get("namespaces") or ()}

    @property
    def bind_mounts(self) -> frozenset[str]:
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
        """Whether other processes of the container survive init (containerd's ShouldKillAllOnExit)."""
        return self.namespaces.get("pid", "shared") != ""

    def with_network(self, path: str) -> "Spec":
        namespaces = [entry for entry in self._linux["namespaces"] if entry["type"] != "network"]
        return self._with_linux(namespaces=[*namespaces, {"type": "network", "path": path}])

    def with_annotation(self, key: str, value: str) -> "Spec":
        return Spec(self.path, {**self.content, "annotations": {**self.annotations, key: value}})

    def with_resources(self, update: Mapping[str, Any]) -> "Spec":
        """Return the spec with updated limits; as with runc, limits that the update does not name stay."""
        return self._with_linux(resources=_merged(self._linux.get("resources") or {}, update))

    def _with_linux(self, **changes: Any) -> "Spec":
        return Spec(self.path, {**self.content, "linux": {**self._linux, **changes}})

    def write(self) -> None:
        """Replace the file atomically: a reader sees the old or the new one."""
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
