"""Events about sleep for `kubectl describe pod`: one for each kind and container, with a count.

The counts are the shims' own, so they are right whether or not the manager saw each time. Like all events they expire
in the API server, an hour after the last change.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from zeropod.manager.kube.client import Object
from zeropod.manager.kube.names import COMPONENT, EVENT_PREFIX
from zeropod.manager.kube.pods import Pod, Statuses
from zeropod.manager.kube.resize import Notice
from zeropod.manager.units import duration
from zeropod.rpc.messages.status_pb2 import ContainerStatus

LIFETIME = 3600.0
"""Seconds that the API server keeps an event; older occurrences are not reported any more."""
MAX_MESSAGE = 1024
"""Most bytes of a message in the API."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it should be."""

    name: str
    container: str
    reason: str
    message: str
    count: int
    at: float
    """Seconds since 1970."""
    is_counted: bool = True
    """Whether another count is a change; otherwise another message is."""
    is_warning: bool = False

    @property
    def mark(self) -> object:
        """Return the part that is compared."""
        return self.count if self.is_counted else self.message


def mark_of(stored: Object, told: Told) -> object:
    """Return the part of a stored event that is compared."""
    return stored.get("count") if told.is_counted else stored.get("message")


@dataclass(frozen=True, slots=True)
class Reporter:
    """The component that reports the events."""

    node: str
    instance: str
    """The name of this manager's pod."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An event about a container; `at` in nanoseconds since 1970."""

    reason: str
    count: Callable[[ContainerStatus], int]
    message: Callable[[ContainerStatus], str]
    at: Callable[[ContainerStatus], int]
    is_warning: bool = False


KINDS = (
    Kind(
        "Running",
        lambda status: status.restores,
        lambda status: f"Restored container {status.container} in {duration(status.last_restore_ms)}",
        lambda status: status.last_restore.ToNanoseconds(),
    ),
    Kind(
        "Scaled down",
        # A container that goes COLD has been in STANDBY before, unless it never enters STANDBY.
        lambda status: max(status.standby_sleeps, status.cold_sleeps),
        lambda status: f"Scaled down container {status.container} in {duration(status.last_checkpoint_ms)}",
        lambda status: status.last_checkpoint.ToNanoseconds(),
    ),
    Kind(
        "Checkpoint failed",
        lambda status: status.checkpoint_errors,
        lambda status: f"Checkpoint failed for container {status.container}: {status.message or status.why}",
        lambda status: status.since.ToNanoseconds(),
        is_warning=True,
    ),
    Kind(
        "Restore failed",
        lambda status: status.restore_errors,
        lambda status: f"Restore failed for container {status.container}: {status.message or status.why}",
        lambda status: status.since.ToNanoseconds(),
        is_warning=True,
    ),
    Kind(
        "Dry run",
        lambda status: status.dry_run_sleeps,
        lambda status: f"Dry-run: container {status.container} would have been scaled down",
        lambda status: status.since.ToNanoseconds(),
    ),
)


def wanted(pod: Pod, statuses: Statuses, notices: tuple[Notice, ...], now: float) -> Iterator[Told]:
    """Yield all events that should exist; `now` in seconds since 1970."""
    for name, status in statuses.items():
        for kind in KINDS:
            count, at = kind.count(status), kind.at(status) / 1e9 or now
            if count and now - at < LIFETIME:
                message = _cut(kind.message(status))
                yield Told(_name(pod, name, kind.reason), name, kind.reason, message, count, at, True, kind.is_warning)
    for notice in notices:
        text = _cut(f"Container {notice.container}: {notice.text}")
        reason = f"Resize {notice.kind}" if notice.is_failure else "Requests kept"
        name = _name(pod, notice.container, f"{reason} {notice.kind}")
        yield Told(name, notice.container, reason, text, 1, now, False, notice.is_failure)


def body_of(told: Told, pod: Pod, reporter: Reporter, first: str) -> Object:
    """Return the event for the API; `first` is when it was first reported, empty if that is now."""
    stamp = datetime.fromtimestamp(told.at, UTC)
    seconds = f"{stamp:%Y-%m-%dT%H:%M:%SZ}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": told.name, "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "fieldPath": f"spec.containers{{{told.container}}}",
        },
        "type": "Warning" if told.is_warning else "Normal",
        "reason": told.reason,
        "action": told.reason,
        "message": told.message,
        "count": told.count,
        "eventTime": f"{stamp:%Y-%m-%dT%H:%M:%S.%fZ}",
        "firstTimestamp": first or seconds,
        "lastTimestamp": seconds,
        "reportingComponent": COMPONENT,
        "reportingInstance": reporter.instance,
        "source": {"component": COMPONENT, "host": reporter.node},
    }


def _name(pod: Pod, container: str, kind: str) -> str:
    digest = hashlib.sha256(f"{pod.uid}/{container}/{kind}".encode()).hexdigest()
    return f"{EVENT_PREFIX}{digest[:20]}"


def _cut(text: str) -> str:
    return text.encode()[:MAX_MESSAGE].decode(errors="ignore")
