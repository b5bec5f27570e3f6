"""Diagnose zeropod in a cluster and its nodes, from objects of the API only. Pure functions.

Each finding names its subject, and what to do. An object that may not be read is a finding, too: only what was checked
is reported as good.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from zeropod.cli.kubectl.cluster import Object
from zeropod.manager.kube.crd import GROUP_VERSION, PLURAL
from zeropod.requirements import OLDEST_CONTAINERD, OLDEST_KERNEL, too_old

HANDLER = "zeropod"
"""The handler's name in containerd and RuntimeClasses."""
LABELS = "app.kubernetes.io/name=zeropod,app.kubernetes.io/component=node"
"""Labels of the manifests' DaemonSet and its pods."""
CRD = f"{PLURAL}.{GROUP_VERSION.partition('/')[0]}"
MOST = 5
"""Most nodes that are listed one by one where they differ in nothing."""
RESTARTS = 3
"""Restarts of a manager from which on they are reported."""

_APPLY = "Apply an overlay of installer/manifests, as README.md says."
_COMPONENTS = "Add the components kubernetes-api and zeropods to your kustomization.yaml, and apply it."


class Verdict(StrEnum):
    """As in `zeropod doctor` on a node."""

    OK = "ok"
    LACKS = "lacks"
    """Something is slower or unavailable."""
    FAILS = "FAILS"
    """Pods do not run, or do not sleep."""
    UNKNOWN = "?"
    """It could not be checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding; `subject` is a node or an object."""

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Objects of the API; kinds that could not be read are empty, with the reason in `unread`."""

    runtime_classes: Sequence[Object] = ()
    daemon_sets: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    """Pods of the DaemonSet."""
    nodes: Sequence[Object] = ()
    crd: Object | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the kinds' names in the API."""


def diagnose(facts: Facts) -> list[Finding]:
    """Return all findings: first of the cluster, then of each node selected for zeropod."""
    found = [
        Finding(kind, Verdict.UNKNOWN, f"may not be read: {why}", "Ask with the rights of a cluster's administrator.")
        for kind, why in facts.unread.items()
    ]
    if "runtimeclasses" not in facts.unread:
        found.append(_runtime_class(facts))
    if "daemonsets" not in facts.unread:
        found += _daemon_sets(facts)
    if "customresourcedefinitions" not in facts.unread:
        found.append(_custom_resource(facts))
    for node in _chosen(facts):
        problems = list(_node(node, facts))
        found += problems or [Finding(_name(node), Verdict.OK, _versions(node))]
    return found


def _runtime_class(facts: Facts) -> Finding:
    ours = [each for each in facts.runtime_classes if each.get("handler") == HANDLER]
    if not ours:
        return Finding(
            "RuntimeClass", Verdict.FAILS, f"there is none with the handler {HANDLER}: no pod gets it", _APPLY
        )
    return Finding("RuntimeClass", Verdict.OK, ", ".join(_name(each) for each in ours))


def _daemon_sets(facts: Facts) -> Iterator[Finding]:
    if not facts.daemon_sets:
        yield Finding("DaemonSet", Verdict.FAILS, f"there is none with the labels {LABELS}", _APPLY)
    for each in facts.daemon_sets:
        status, name = each.get("status") or {}, f"{each['metadata']['namespace']}/{_name(each)}"
        desired, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
        if not desired:
            wanted = ",".join(f"{key}={value}" for key, value in _selector(each).items())
            text = f"{name} has no node to run on" + (f": none has the label {wanted}" if wanted else "")
            yield Finding("DaemonSet", Verdict.FAILS, text, f"kubectl label node NODE {wanted}" if wanted else "")
            continue
        text = f"{name}: {ready} of {desired} nodes ready"
        if (updated := status.get("updatedNumberScheduled", desired)) < desired:
            text += f", {updated} of the newest version"
        if others := sorted({_name(node) for node in facts.nodes} - {_name(node) for node in _chosen(facts)}):
            more = f" and {len(others) - MOST} more" if len(others) > MOST else ""
            text += f"; not on {', '.join(others[:MOST])}{more}"
        yield Finding("DaemonSet", Verdict.OK, text)


def _custom_resource(facts: Facts) -> Finding:
    is_kept = any("--zeropods" in _manager_command(each) for each in facts.daemon_sets)
    if facts.crd is None:
        verdict = Verdict.FAILS if is_kept else Verdict.LACKS
        return Finding(
            CRD, verdict, "there is none: kubectl zeropod ps, why, sleep, wake and top do not work", _COMPONENTS
        )
    conditions = facts.crd.get("status", {}).get("conditions") or ()
    if bad := [each for each in conditions if each.get("type") == "Established" and each.get("status") != "True"]:
        return Finding(CRD, Verdict.FAILS, f"it is not in force: {bad[0].get('message', '')}", _APPLY)
    served = [each["name"] for each in facts.crd.get("spec", {}).get("versions", ()) if each.get("served")]
    version = GROUP_VERSION.partition("/")[2]
    if version not in served:
        text = f"it has the versions {', '.join(served)}, but this program and the managers need {version}"
        return Finding(CRD, Verdict.FAILS, text, "Apply the manifests of the same release.")
    if facts.daemon_sets and not is_kept:
        return Finding(CRD, Verdict.LACKS, "the managers do not keep it: they run without --zeropods", _COMPONENTS)
    return Finding(CRD, Verdict.OK, version)


def _chosen(facts: Facts) -> list[Object]:
    """Return the nodes that are selected for zeropod, or have it."""
    with_pod = {each.get("spec", {}).get("nodeName") for each in facts.pods}
    selectors = [_selector(each) for each in facts.daemon_sets]
    found = [
        node
        for node in facts.nodes
        if _name(node) in with_pod
        or any(selector.items() <= (node["metadata"].get("labels") or {}).items() for selector in selectors)
    ]
    # If nodes may not be read, use those named by the pods.
    missing = sorted(name for name in with_pod - {_name(node) for node in facts.nodes} if name)
    return [*sorted(found, key=_name), *({"metadata": {"name": name}} for name in missing)]


def _node(node: Object, facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with a node."""
    name, status = _name(node), node.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            yield Finding(name, Verdict.FAILS, f"the node is not ready: {condition.get('message', '')}", "")
    info = status.get("nodeInfo") or {}
    if words := too_old(info.get("kernelVersion", "999.0"), OLDEST_KERNEL):
        yield Finding(name, Verdict.FAILS, f"its kernel is {words}", "Use a node image with a newer kernel.")
    yield from _container_runtime(name, info.get("containerRuntimeVersion", ""))
    pods = [each for each in facts.pods if each.get("spec", {}).get("nodeName") == name]
    staying = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
    troubles = [trouble for pod in staying for trouble in _pod(name, pod)]
    if pods and not staying:
        troubles = [Finding(name, Verdict.LACKS, "its pod is being replaced or removed")]
    yield from troubles
    if not pods and "pods" not in facts.unread:
        remedy = "`kubectl describe daemonset` says why, in its events: taints, quotas, or a lack of resources."
        yield Finding(name, Verdict.FAILS, "the DaemonSet has no pod here", remedy)
    if not troubles and (handlers := status.get("runtimeHandlers")):
        yield from _handler(name, handlers)


def _container_runtime(name: str, text: str) -> Iterator[Finding]:
    kind, _, version = text.partition("://")
    if kind not in ("containerd", ""):
        yield Finding(name, Verdict.FAILS, f"its container runtime is {text}, and zeropod is a shim of containerd's")
    elif kind and (words := too_old(version, OLDEST_CONTAINERD)):
        yield Finding(name, Verdict.FAILS, f"its containerd is {words}", "Use a node image with a newer containerd.")


def _handler(name: str, handlers: Sequence[Object]) -> Iterator[Finding]:
    """Yield what is wrong with the handler, as the kubelet knows it from containerd."""
    ours = next((each for each in handlers if each.get("name") == HANDLER), None)
    again = "Have the installer run again: kubectl -n zeropod-system rollout restart daemonset/zeropod-node."
    if ours is None:
        yield Finding(name, Verdict.FAILS, f"its containerd does not know the handler {HANDLER}", again)
    elif ordinary := next((each for each in handlers if each.get("name") == "runc"), None):
        has, could = ours.get("features") or {}, ordinary.get("features") or {}
        if lacking := sorted(key for key, value in could.items() if value and not has.get(key)):
            text = f"the handler {HANDLER} lacks what runc has: {', '.join(lacking)}"
            yield Finding(name, Verdict.LACKS, text, again)


def _pod(node: str, pod: Object) -> Iterator[Finding]:
    """Yield why a pod of the DaemonSet is not ready."""
    status, metadata = pod.get("status") or {}, pod["metadata"]
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    is_ready = conditions.get("Ready", {}).get("status") == "True"
    logs = f"kubectl -n {metadata['namespace']} logs {metadata['name']} -c"
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        name, state, last = each["name"], each.get("state") or {}, (each.get("lastState") or {}).get("terminated")
        restarts = each.get("restartCount", 0)
        if is_ready:
            if restarts >= RESTARTS and last:
                text = f"{name} was restarted {restarts} times; last {_end(last)}"
                yield Finding(node, Verdict.LACKS, text, f"{logs} {name} --previous")
            continue
        waiting, ended = state.get("waiting"), state.get("terminated")
        if ended and ended.get("exitCode"):
            yield Finding(node, Verdict.FAILS, f"{name} failed: {_end(ended)}", f"{logs} {name}")
        elif waiting and last and last.get("exitCode"):
            yield Finding(
                node, Verdict.FAILS, f"{name} failed {restarts} times: {_end(last)}", f"{logs} {name} --previous"
            )
        elif waiting and "Image" in waiting.get("reason", ""):
            text = f"{name} has no image: {_words(waiting)}"
            remedy = "Put the image where the node finds it, and name it in your kustomization.yaml: docs/install.md."
            yield Finding(node, Verdict.FAILS, text, remedy)
        elif waiting and waiting.get("reason") not in ("PodInitializing", None):
            yield Finding(node, Verdict.FAILS, f"{name} waits: {_words(waiting)}", _describe(metadata))
        elif "running" in state and not each.get("ready"):
            verdict = Verdict.LACKS if name in _inits(pod) else Verdict.FAILS
            yield Finding(node, verdict, f"{name} runs and is not ready yet", f"{logs} {name}")
        else:
            continue
        return
    if not is_ready:
        said = status.get("message") or conditions.get("Ready", {}).get("message") or status.get("phase", "")
        yield Finding(node, Verdict.FAILS, f"the pod {metadata['name']} is not ready: {said}", _describe(metadata))


def _describe(metadata: Object) -> str:
    return f"kubectl -n {metadata['namespace']} describe pod {metadata['name']}"


def _inits(pod: Object) -> list[str]:
    return [each["name"] for each in (pod.get("status") or {}).get("initContainerStatuses") or ()]


def _end(ended: Object) -> str:
    """Return why a container has ended: the last line of its output, or its status."""
    lines = [line for line in (ended.get("message") or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"{ended.get('reason', 'Error')}, exit status {ended.get('exitCode')}"


def _words(waiting: Object) -> str:
    return ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))


def _selector(daemon_set: Object) -> dict[str, str]:
    selector: dict[str, str] = daemon_set["spec"]["template"]["spec"].get("nodeSelector") or {}
    return selector


def _manager_command(daemon_set: Object) -> list[str]:
    containers = daemon_set["spec"]["template"]["spec"]["containers"]
    return [word for each in containers for word in (*(each.get("command") or ()), *(each.get("args") or ()))]


def _versions(node: Object) -> str:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    said = (
        info.get("containerRuntimeVersion", "").replace("://", " "),
        f"Linux {info.get('kernelVersion', '')}".strip(),
    )
    return ", ".join(filter(None, said)) if info else "its pod is ready"


def _name(each: Object) -> str:
    return str(each["metadata"]["name"])
