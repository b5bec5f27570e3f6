"""What there should be of a pod in the API, as a pure function, and what is remembered of a pod between writes."""

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
    """What is written at all."""

    labels: bool = False
    events: bool = False
    resize: bool = False
    zeropods: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be written to a pod, and about it."""

    labels: Mapping[str, str | None] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    events: Sequence[Told] = ()
    """Those that there should be, whether there are or not."""
    notices: tuple[Notice, ...] = ()


def wanted(pod: Pod, statuses: Statuses, options: Options, now: float, refused: str = "") -> Changes:
    """Return what makes the API agree with the shims; `refused` is why the last resize was."""
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
    """An event that the API has."""

    mark: object
    first: str
    """When it was first told, as the API writes times."""
    at: float = -math.inf
    """When it was last told from here, by trio's clock."""


@dataclass(slots=True)
class Work:
    """What is remembered of a pod between writes."""

    key: Key
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_RETRY, LAST_RETRY))
    due: float = -math.inf
    """When it is looked at without a change, by trio's clock as all times here."""
    retry: float = -math.inf
    """When it may be written to again after a failure."""
    written: float = -math.inf
    shown: float = -math.inf
    """When its custom resource was written."""
    seen: float | None = None
    """When a difference of its custom resource was noticed that is not written yet."""
    details: float | None = None
    """When one in reasons or sizes alone was."""
    is_busy: bool = False
    api: tuple[object, ...] = ()
    """What of the API was looked at last."""
    said: Sequence[ContainerStatus] = ()
    """What the shims said of it then."""
    told: dict[str, Known] = field(default_factory=dict)
    moves: int | None = None
    """Changes of state so far."""
    room: int = 0
    """Writes that the changes of state have left."""
    refused: str = ""
    notices: tuple[Notice, ...] = ()
    asked: float = field(default_factory=trio.current_time)
    """When the reasons for being awake were last asked for, or told by themselves."""
    answers: dict[str, tuple[ContainerStatus, list[zeropods.Reason]]] = field(default_factory=dict)
    """Answers to that by container, with the status that they are newer than."""
    requests: Requests = field(default_factory=Requests)
