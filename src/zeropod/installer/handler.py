"""The table in containerd's configuration that defines the handler `zeropod` of the CRI plugin. Pure functions.

Options of the node's ordinary runtime are copied: the cgroup driver above all, and the base spec of containers.
"""

import json
from collections.abc import Mapping
from typing import Any

NAME = "zeropod"
RUNTIME_TYPE = "io.containerd.runc.v2"
"""runc's runtime type, with the shim as its `runtime_path`: containerd's CRI plugin queries features (user namespaces,
recursive read-only mounts), which it passes on to the kubelet, only from runtimes of this type."""
ANNOTATIONS = ["zeropod.ctrox.dev/*"]

PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""The CRI plugin's name, by the version of the configuration; newer versions keep the newest name."""

# By CRI's JSON and by TOML names; copied from runc's table if set.
_OF_RUNTIME = {
    "baseRuntimeSpec": "base_runtime_spec",
    "privilegedWithoutHostDevices": "privileged_without_host_devices",
    "cgroupWritable": "cgroup_writable",
    "snapshotter": "snapshotter",
}
_NOT_PASSED_ON = {"CriuPath", "CriuImagePath", "CriuWorkPath"}
"""Options of runc's table that name another CRIU or its directories, which the shim sets itself."""


def plugin(version: int) -> str:
    return PLUGINS[min(version, max(PLUGINS))]


def table(version: int, shim: str, like: Mapping[str, Any] | None) -> str:
    """Return the handler's table for a configuration of this version.

    `shim` is the absolute path of the shim; `like` is the node's ordinary runtime, with the keys of CRI's JSON or of
    TOML.
    """
    like = like or {}
    place = f'plugins."{plugin(version)}".containerd.runtimes.{NAME}'
    values: dict[str, Any] = {"runtime_type": RUNTIME_TYPE, "runtime_path": shim, "pod_annotations": ANNOTATIONS}
    values |= {toml: like.get(json_name) or like.get(toml) for json_name, toml in _OF_RUNTIME.items()}
    lines = [f"[{place}]", *_lines(values)]
    options = options_of(like)
    if options:
        lines += [f"[{place}.options]", *_lines(options)]
    return "\n".join(lines) + "\n"


def template_table(version: int, shim: str) -> str:
    """Return the handler's table for templates of K3s and RKE2, which know the cgroup driver."""
    place = f'plugins."{plugin(version)}".containerd.runtimes.{NAME}'
    return table(version, shim, None) + f"[{place}.options]\n  SystemdCgroup = {{{{ .SystemdCgroup }}}}\n"


def options_of(like: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ordinary runtime's options that apply to zeropod; none unless it is runc."""
    if (like.get("runtimeType") or like.get("runtime_type")) != RUNTIME_TYPE:
        return {}
    options = like.get("options") or {}
    return {name: value for name, value in options.items() if value and name not in _NOT_PASSED_ON}


def _lines(values: Mapping[str, Any]) -> list[str]:
    # JSON's strings, numbers, booleans and arrays are TOML's, too.
    return [f"  {name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value]
