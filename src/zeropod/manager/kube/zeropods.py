"""The custom resource zeropods.runtime.zeropod.ctrox.dev of a pod, from the statuses of the pod's shim. Pure functions.

There is one for each pod that zeropod runs, with its name and namespace and owned by it, so that it is deleted with it.
Its schema is installer/manifests/components/zeropods/crd.yaml; a test compares the two.

Values that change all the time must not be written all the time: a nap does not count as a change, reasons that differ
only in their figures are equal, and changed reasons and sizes of memory wait for another change, or for a minute.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zeropod.manager.kube.client import Object
from zeropod.manager.kube.crd import GROUP_VERSION, KIND, NODE_LABEL
from zeropod.manager.kube.pods import Pod
from zeropod.manager.units import MEBIBYTE
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

Reason = tuple[str, str, str]
"""Kind, text and remedy of a reason for a container's state."""

LONGEST_LABEL = 63
LONGEST_TEXT = 1024
"""Most characters of a text, as in the schema."""
MOST_REASONS = 32
RESIZE = "resize"
"""The kind of the reasons that come from the kubelet."""

_IN_BETWEEN = (status_pb2.CHECKPOINTING, status_pb2.DOZING, status_pb2.RESTORING)
_WAKEFULNESS = ("RUNNING", "PAUSED", "CREATED", "STANDBY", "COLD", "STOPPED")
"""States by ascending sleep: a pod has that of its container that is most awake."""
_ASLEEP = ("STANDBY", "COLD")
_NUMBER = re.compile(r"\d+(?:[.:]\d+)*")


@dataclass(frozen=True, slots=True)
class Resource:
    """The fields of a custom resource that the manager uses."""

    uid: str
    generation: int
    node: str
    """The value of NODE_LABEL."""
    owners: tuple[str, ...]
    """Uids of the pods in its ownerReferences."""
    spec: Object
    text: str
    """The status as JSON: as objects, hundreds of them would take megabytes."""

    @property
    def status(self) -> Object:
        """Return the status; empty if there is none yet."""
        return dict(json.loads(self.text))

    @property
    def containers(self) -> dict[str, Object]:
        """Return the status of each container, by name."""
        return {each["name"]: each for each in self.status.get("containers") or ()}


def keep(body: Object) -> Resource:
    """Return the used fields of a custom resource: without managedFields, which are most of it."""
    metadata = body["metadata"]
    return Resource(
        uid=metadata["uid"],
        generation=int(metadata.get("generation", 0)),
        node=(metadata.get("labels") or {}).get(NODE_LABEL, ""),
        owners=tuple(each["uid"] for each in metadata.get("ownerReferences") or () if each.get("kind") == "Pod"),
        spec=body.get("spec") or {},
        text=json.dumps(body.get("status") or {}, separators=(",", ":")),
    )


def label_value(node: str) -> str:
    """Return the value of NODE_LABEL: the node's name, or a hash if the name is too long for a label."""
    return node if len(node) <= LONGEST_LABEL else hashlib.sha256(node.encode()).hexdigest()[:40]


def identity(pod: Pod, node: str) -> Object:
    """Return the metadata of a resource: its owner and its node."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
    metadata = {"name": pod.name, "namespace": pod.namespace, "labels": {NODE_LABEL: label_value(node)}}
    return {"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": {**metadata, "ownerReferences": [owner]}}


def is_of(resource: Resource, pod: Pod, node: str) -> bool:
    """Return whether a resource belongs to this very pod, on this node."""
    return pod.uid in resource.owners and resource.node == label_value(node)


def container_status(
    status: ContainerStatus,
    before: Mapping[str, Any] | None = None,
    reasons: Sequence[Reason] = (),
    requests: Sequence[Object] = (),
) -> Object:
    """Return the status of one container. `before` is the last one of the container of this name."""
    known = before if before and before.get("containerID") == status.id else {}
    state = str(known.get("state", "RUNNING")) if status.state in _IN_BETWEEN else _name(status.state)
    made: Object = {
        "name": status.container,
        "containerID": status.id,
        "state": state,
        "since": timestamp(status.since.ToNanoseconds()),
        "sleeps": status.standby_sleeps or status.cold_sleeps,
        "wakes": status.restores,
        "maySleep": status.may_sleep,
    }
    if all(known.get(name) == made[name] for name in ("state", "sleeps", "wakes")):
        made["since"] = known["since"]
    if status.restores:
        made["lastWake"] = timestamp(status.last_restore.ToNanoseconds())
        made["lastWakeMilliseconds"] = round(status.last_restore_ms, 3)
    if status.memory_backend:
        made["memory"] = {
            "backend": status.memory_backend,
            "givenBackBytes": status.memory_out_bytes,
            "leftBytes": status.memory_left_bytes,
        }
    if why := status.why or status.why_kept:
        made["why"] = _kept_text(_cut(why), str(known.get("why", "")))
    if status.message:
        made["lastError"] = _kept_text(_cut(status.message), str(known.get("lastError", "")))
    if reasons:
        made["reasons"] = [_reason(*reason) for reason in reasons[:MOST_REASONS]]
    if requests:
        made["requests"] = list(requests)
    return made


def reasons_of(pod: Pod, said: Sequence[Reason]) -> list[Reason]:
    """Return the reasons of a container: first the kubelet's about its resize, then its shim's."""
    if not pod.pending:
        return list(said)
    text = pod.pending.text
    return [(RESIZE, f"{text[:1].upper()}{text[1:]}", pod.pending.remedy), *said]


def pod_status(containers: Sequence[Object], node: str, generation: int, problem: str = "") -> Object:
    """Return the whole status; the fields besides `containers` are those printed by `kubectl get`."""
    states = sorted((each["state"] for each in containers), key=_wakefulness)
    memory = [each["memory"] for each in containers if "memory" in each]
    made: Object = {
        "observedGeneration": generation,
        "nodeName": node,
        "state": states[0],
        "asleep": f"{sum(state in _ASLEEP for state in states)}/{len(states)}",
        "since": max(each["since"] for each in containers),
        "sleeps": sum(each["sleeps"] for each in containers),
        "wakes": sum(each["wakes"] for each in containers),
        "memoryGivenBack": _mebibytes(sum(each["givenBackBytes"] for each in memory)),
        "containers": list(containers),
    }
    if backends := sorted({each["backend"] for each in memory}):
        made["backend"] = ",".join(backends)
    if woken := [each for each in containers if "lastWake" in each]:
        last = max(woken, key=lambda each: str(each["lastWake"]))
        made |= {name: last[name] for name in ("lastWake", "lastWakeMilliseconds")}
    awake_first = sorted(containers, key=lambda each: _wakefulness(each["state"]))
    if why := next((each["why"] for each in awake_first if "why" in each), ""):
        made["why"] = why
    if problem:
        made["problem"] = _cut(problem)
    return made


def differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return "" if there is nothing to write, "details" if only reasons or sizes of memory differ, else "state".

    A pending resize is "resize", as it lasts. Reasons are compared without their figures.
    """
    before, after = _comparable(old), _comparable(new)
    if before == after:
        return ""
    if _without_details(before) != _without_details(after):
        return "state"
    return "details" if _resizes(old) == _resizes(new) else "resize"


def _comparable(status: Mapping[str, Any]) -> Object:
    made = {name: value for name, value in status.items() if name != "lastUpdateTime"}
    made["containers"] = [
        {**each, "reasons": sorted({blank(reason["text"]) for reason in each.get("reasons") or ()})}
        for each in status.get("containers") or ()
    ]
    return made


def _resizes(status: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {
        (each["name"], blank(reason["text"]))
        for each in status.get("containers") or ()
        for reason in each.get("reasons") or ()
        if reason["kind"] == RESIZE
    }


def _without_details(comparable: Object) -> Object:
    without = {"why": None, "reasons": None}
    containers = [
        {**each, **without, "memory": (each.get("memory") or {}).get("backend")}
        for each in comparable.get("containers") or ()
    ]
    return {**comparable, "why": None, "memoryGivenBack": None, "containers": containers}


def timestamp(nanoseconds: int) -> str:
    """Return a time as the API writes it, with milliseconds."""
    at = datetime.fromtimestamp(nanoseconds // 1_000_000 / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def blank(text: str) -> str:
    """Return a text without its figures: times, sizes, addresses and ports."""
    return _NUMBER.sub("#", text)


def _kept_text(new: str, old: str) -> str:
    return old if blank(new) == blank(old) else new


def _reason(kind: str, text: str, remedy: str) -> Object:
    made = {"kind": kind, "text": _cut(text)}
    return {**made, "remedy": _cut(remedy)} if remedy else made


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _name(state: int) -> str:
    """Return the name of a state, or its number if a newer shim sends it."""
    return dict(zip(State.values(), State.keys(), strict=True)).get(state, str(state))


def _wakefulness(state: str) -> int:
    return _WAKEFULNESS.index(state) if state in _WAKEFULNESS else 0


def _mebibytes(size: int) -> str:
    return f"{size // MEBIBYTE}Mi" if size >= MEBIBYTE else "0"
