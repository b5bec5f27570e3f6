"""The table of containerd's configuration that makes `zeropod` a handler of the CRI plugin. Pure text.

What the node's ordinary runtime is told has to be told ours, too: which cgroup driver, above all, and what every
container's specification starts from.
"""

import json
from collections.abc import Mapping
from typing import Any

NAME = "zeropod"
RUNTIME_TYPE = "io.containerd.runc.v2"
"""runc's own, with our shim as its `runtime_path`: containerd's CRI asks only runtimes of this type what they can
do, user namespaces and recursive read-only mounts above all, which it then tells the kubelet."""
ANNOTATIONS = ["zeropod.ctrox.dev/*"]

PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""The CRI plugin's name, by the version of the configuration; newer versions keep the newest name."""

# By CRI's JSON and by TOML; runc's own are passed on where they are set.
_OF_RUNTIME = {
    "baseRuntimeSpec": "base_runtime_spec",
    "privilegedWithoutHostDevices": "privileged_without_host_devices",
    "cgroupWritable": "cgroup_writable",
    "snapshotter": "snapshotter",
}
_NOT_PASSED_ON = {"CriuPath", "CriuImagePath", "CriuWorkPath"}
"""Options of runc's that name a CRIU of another version, or its places, which are the shim's own business."""


def plugin(version: int) -> str:
    return PLUGINS[min(version, max(PLUGINS))]


def table(version: int, shim: str, like: Mapping[str, Any] | None) -> str:
    """The handler's table for a configuration of this version, by the absolute path of the shim.

    `like` is the node's ordinary runtime, with keys as in CRI's JSON or as in TOML.
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
    """The handler in K3s' and RKE2's templates, which know the cgroup driver themselves."""
    place = f'plugins."{plugin(version)}".containerd.runtimes.{NAME}'
    return table(version, shim, None) + f"[{place}.options]\n  SystemdCgroup = {{{{ .SystemdCgroup }}}}\n"


def options_of(like: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ordinary runtime's options that are ours as well; none unless it is runc."""
    if (like.get("runtimeType") or like.get("runtime_type")) != RUNTIME_TYPE:
        return {}
    options = like.get("options") or {}
    return {name: value for name, value in options.items() if value and name not in _NOT_PASSED_ON}


def _lines(values: Mapping[str, Any]) -> list[str]:
    # JSON's strings, numbers, booleans and arrays are TOML's, too.
    return [f"  {name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value]
