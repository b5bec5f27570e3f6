"""Finds the container that a user names: by the beginning of its id, or by its names."""

from collections.abc import Sequence

from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.shims import Found


class NotFound(Exception):  # noqa: N818 - what a user is told
    """No container matches, or several do; the text says which."""


def find(wanted: str, among: Sequence[Found]) -> Found:
    """Return the container with this id, with this unique beginning of an id, or with this name. Raises NotFound.

    A name is namespace/pod/container; the container may be left out if the pod has only one. The name of a container
    without a pod is containerd's namespace/id.
    """
    exact = [entry for entry in among if entry.status.id == wanted]
    found = exact or [entry for entry in among if _is(wanted, entry.status)]
    if len(found) == 1:
        return found[0]
    if not found:
        there = "zeropod ps lists them" if among else "there is none on this node"
        raise NotFound(f"no container {wanted}; {there}")
    names = ", ".join(name(entry.status) for entry in found)
    raise NotFound(f"{wanted} may be any of {len(found)} containers: {names}")


def name(status: ContainerStatus) -> str:
    """Return a container's name for messages."""
    if not status.pod:
        return f"{status.namespace}/{status.id}"
    return f"{status.pod_namespace}/{status.pod}/{status.container or '(sandbox)'} ({status.id[:13]})"


def _is(wanted: str, status: ContainerStatus) -> bool:
    parts = wanted.split("/")
    if len(parts) == 1:
        return bool(wanted) and status.id.startswith(wanted)
    if not status.pod and parts == [status.namespace, status.id]:
        return True
    is_sandbox = status.id == status.sandbox
    return not is_sandbox and parts == [status.pod_namespace, status.pod, status.container][: len(parts)]
