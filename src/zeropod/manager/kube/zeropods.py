"""The custom resource zeropods.runtime.zeropod.ctrox.dev: what it says of a pod, from what the pod's shim says.

Pure. There is one for each pod that zeropod runs, of its name and namespace and owned by it, so that it ends with it.
Its schema is installer/manifests/components/zeropods/crd.yaml, which a test holds against what is made here.

What changes all the time by itself must not be written all the time: a nap for a probe is no change, a reason whose
figures alone differ is the same reason, and reasons and sizes of memory wait for another change, or for a minute.
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
"""Kind, text and remedy of what has a part in what a container does."""

LONGEST_LABEL = 63
LONGEST_TEXT = 1024
"""Characters of a sentence, as the schema allows."""
MOST_REASONS = 32
RESIZE = "resize"
"""The kind of reason that the kubelet has given."""

_IN_BETWEEN = (status_pb2.CHECKPOINTING, status_pb2.DOZING, status_pb2.RESTORING)
_WAKEFULNESS = ("RUNNING", "PAUSED", "CREATED", "STANDBY", "COLD", "STOPPED")
"""A pod is in the state of its most wakeful container."""
_ASLEEP = ("STANDBY", "COLD")
_NUMBER = re.compile(r"\d+(?:[.:]\d+)*")


@dataclass(frozen=True, slots=True)
class Resource:
    """What matters of a custom resource as the API has it."""

    uid: str
    generation: int
    node: str
    """The value of NODE_LABEL."""
    owners: tuple[str, ...]
    """Uids of the pods that it says it belongs to."""
    spec: Object
    text: str
    """The status as JSON: as objects, hundreds of them take megabytes."""

    @property
    def status(self) -> Object:
        """Return what it says; empty where it says nothing yet."""
        return dict(json.loads(self.text))

    @property
    def containers(self) -> dict[str, Object]:
        """Return what it says of containers, by their names."""
        return {each["name"]: each for each in self.status.get("containers") or ()}


def keep(body: Object) -> Resource:
    """Return what matters of a custom resource: not its managed fields, which are most of it."""
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
    """Return the value of NODE_LABEL: the node's name, or a hash of one that is too long for a label."""
    return node if len(node) <= LONGEST_LABEL else hashlib.sha256(node.encode()).hexdigest()[:40]


def identity(pod: Pod, node: str) -> Object:
    """Return what a resource is apart from its status: whose it is, and on which node."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
    metadata = {"name": pod.name, "namespace": pod.namespace, "labels": {NODE_LABEL: label_value(node)}}
    return {"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": {**metadata, "ownerReferences": [owner]}}


def is_of(resource: Resource, pod: Pod, node: str) -> bool:
    """Whether a resource says that it belongs to this very pod, on this node."""
    return pod.uid in resource.owners and resource.node == label_value(node)


def container_status(
    status: ContainerStatus,
    before: Mapping[str, Any] | None = None,
    reasons: Sequence[Reason] = (),
    requests: Sequence[Object] = (),
) -> Object:
    """Return what is said of one container. `before` is what was said of the container of this name last."""
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
    """Return the reasons of a container: what its shim has said, after what the kubelet says of its resize."""
    if not pod.pending:
        return list(said)
    text = pod.pending.text
    return [(RESIZE, f"{text[:1].upper()}{text[1:]}", pod.pending.remedy), *said]


def pod_status(containers: Sequence[Object], node: str, generation: int, problem: str = "") -> Object:
    """Return the whole status; what is beside `containers` is what `kubectl get` prints of them."""
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
    """Return "" if there is nothing to write, "details" if reasons or sizes of memory alone differ, else "state".

    Of the details, a resize that waits is "resize": it lasts. Reasons count by what they say without their figures.
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
    """Return a sentence without its figures: times, sizes, addresses and ports."""
    return _NUMBER.sub("#", text)


def _kept_text(new: str, old: str) -> str:
    return old if blank(new) == blank(old) else new


def _reason(kind: str, text: str, remedy: str) -> Object:
    made = {"kind": kind, "text": _cut(text)}
    return {**made, "remedy": _cut(remedy)} if remedy else made


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _name(state: int) -> str:
    """Return the name of a state; its number if it is a newer shim's."""
    return dict(zip(State.values(), State.keys(), strict=True)).get(state, str(state))


def _wakefulness(state: str) -> int:
    return _WAKEFULNESS.index(state) if state in _WAKEFULNESS else 0


def _mebibytes(size: int) -> str:
    return f"{size // MEBIBYTE}Mi" if size >= MEBIBYTE else "0"
