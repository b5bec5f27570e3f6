"""Requests to sleep or wake a pod's containers: what is requested where, and the outcome. Pure functions.

A request is in the custom resource (`spec.containers[].wanted`) or in an annotation of the pod, and is carried out
once. The resource's status records it with its outcome, so that a restart of the manager or the container does not
repeat it. To repeat it, change `requestedAt`, or remove the request first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from zeropod.manager.kube.crd import WANTED_ANNOTATION
from zeropod.rpc.status import Code

Object = dict[str, Any]


class Wanted(StrEnum):
    ASLEEP = "Asleep"
    AWAKE = "Awake"


class Source(StrEnum):
    """Where a request was made."""

    SPEC = "Spec"
    ANNOTATION = "Annotation"


class Outcome(StrEnum):
    DONE = "Done"
    REFUSED = "Refused"
    """The container may not sleep, at the moment or ever."""
    FAILED = "Failed"
    """Its shim did not answer."""


@dataclass(frozen=True, slots=True)
class Request:
    source: Source
    wanted: Wanted
    requested_at: str = ""


class AnnotationError(ValueError):
    """The annotation is invalid; the text says what is valid."""


def from_spec(spec: Mapping[str, Any], name: str) -> Request | None:
    """Return the state that a resource's specification wants for the container of this name."""
    for each in spec.get("containers") or ():
        if each.get("name") == name and each.get("wanted") in list(Wanted):
            return Request(Source.SPEC, Wanted(each["wanted"]), str(each.get("requestedAt", "")))
    return None


def from_annotation(text: str) -> dict[str, Wanted]:
    """Return the wanted state of each container, by its name; "" stands for all others. Raises AnnotationError."""
    if not text.strip():
        return {}
    if text.strip() in list(Wanted):
        return {"": Wanted(text.strip())}
    found: dict[str, Wanted] = {}
    for part in text.strip().strip(";").split(";"):
        name, _, wanted = (each.strip() for each in part.partition("="))
        if not name or wanted not in list(Wanted):
            raise AnnotationError(
                f"annotation {WANTED_ANNOTATION}: {text[:200]!r} is neither Asleep nor Awake, "
                "nor a list such as web=Asleep;db=Awake"
            )
        found[name] = Wanted(wanted)
    return found


def wanted_of(name: str, spec: Mapping[str, Any], annotated: Mapping[str, Wanted]) -> list[Request]:
    """Return all requests for the container of this name."""
    requests = [request] if (request := from_spec(spec, name)) else []
    if wanted := annotated.get(name) or annotated.get(""):
        requests.append(Request(Source.ANNOTATION, wanted))
    return requests


def record(request: Request, outcome: Outcome, reason: str, at: str) -> Object:
    """Return the status record of a request that was carried out, or refused."""
    made: Object = {"source": request.source, "wanted": request.wanted, "outcome": outcome, "at": at}
    if request.requested_at:
        made["requestedAt"] = request.requested_at
    if reason:
        made["reason"] = reason
    return made


def is_of(recorded: Mapping[str, Any], request: Request) -> bool:
    """Return whether this record is of this request."""
    seen = (recorded.get("source"), recorded.get("wanted"), recorded.get("requestedAt", ""))
    return seen == (request.source, request.wanted, request.requested_at)


def standing(requests: Iterable[Request], recorded: Iterable[Object]) -> list[Object]:
    """Return the records of requests that still stand; of two of one request the first."""
    known = list(recorded)
    found = (next((each for each in known if is_of(each, request)), None) for request in requests)
    return [each for each in found if each is not None]


def pending(requests: Iterable[Request], recorded: Iterable[Object]) -> list[Request]:
    """Return the requests without a record, in the order in which they are to be carried out."""
    known = list(recorded)
    return [request for request in requests if not any(is_of(each, request) for each in known)]


def outcome_of(code: Code) -> Outcome:
    """Return the outcome that an error of a shim means."""
    refusals = (Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED)
    return Outcome.REFUSED if code in refusals else Outcome.FAILED
