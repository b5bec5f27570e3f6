"""The wanted state of a pod in the API, as a pure function, and the data kept of a pod between writes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from zeropod.manager.kube import events, labels, resize, zeropods
from zeropod.manager.kube.carry_out import Requests
from zeropod.manager.kube.events import Told
from zeropod.manager.kube.follow import Key
from zeropod.manager.kube.pacing import Backoff
from zeropod.manager.kube.pods import Pod, Statuses
from zeropod.manager.kube.resize import Notice
from zeropod.rpc.messages.status_pb2 import ContainerStatus

FIRST_RETRY, LAST_RETRY = 0.5, 30.0
"""Seconds between attempts at a pod."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is written at all, by the manager's flags."""

    labels: bool = False
    events: bool = False
    resize: bool = False
    zeropods: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes to a pod and its events."""

    labels: Mapping[str, str | None] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    events: Sequence[Told] = ()
    """Events that should exist, whether they do or not."""
    notices: tuple[Notice, ...] = ()


def wanted(pod: Pod, statuses: Statuses, options: Options, now: float, refused: str = "") -> Changes:
    """Return the changes that bring the API in line with the shims; `refused` is why the last resize was refused."""
    if pod.is_ending:
        return Changes()
    sizes = resize.wanted(pod, statuses, now) if options.resize else resize.Resize()
    notices = sizes.notices
    if refused:
        notices += tuple(Notice(name, "refused", f"its resize is refused: {refused}") for name in sizes.requests)
    return Changes(
        labels=labels.wanted(pod, statuses) if options.labels else {},
        annotations=sizes.annotations,
        requests=sizes.requests,
        events=tuple(events.wanted(pod, statuses, notices, now)) if options.events else (),
        notices=notices,
    )


@dataclass(frozen=True, slots=True)
class Known:
    """An event that exists in the API."""

    mark: object
    first: str
    """When it was first reported, in the API's format."""
    at: float = -math.inf
    """When it was last reported from here, on trio's clock."""


@dataclass(slots=True)
class Work:
    """The data kept of a pod between writes."""

    key: Key
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_RETRY, LAST_RETRY))
    due: float = -math.inf
    """When it is checked without a change; on trio's clock, like all times here."""
    retry: float = -math.inf
    """Earliest time of the next write after a failure."""
    written: float = -math.inf
    shown: float = -math.inf
    """When its custom resource was last written."""
    seen: float | None = None
    """When a difference of its custom resource was noticed that is not written yet."""
    details: float | None = None
    """When a difference in only reasons or sizes was noticed."""
    is_busy: bool = False
    api: tuple[object, ...] = ()
    """The objects of the API at the last check."""
    said: Sequence[ContainerStatus] = ()
    """The shims' statuses at the last check."""
    told: dict[str, Known] = field(default_factory=dict)
    moves: int | None = None
    """Changes of state so far."""
    room: int = 0
    """Writes that changes of state have left over."""
    refused: str = ""
    notices: tuple[Notice, ...] = ()
    asked: float = field(default_factory=trio.current_time)
    """When the reasons for being awake were last queried, or reported."""
    answers: dict[str, tuple[ContainerStatus, list[zeropods.Reason]]] = field(default_factory=dict)
    """The results by container, with the status from before the query."""
    requests: Requests = field(default_factory=Requests)
