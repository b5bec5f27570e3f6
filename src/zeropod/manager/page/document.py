"""A `History` as the JSON document that the page reads: all of it, or the changes since the reader's last request.

It is made in pieces, one for each container, because the whole may be larger than the manager's memory.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from zeropod.manager.page.history import STATES, History, Lane


@dataclass(frozen=True, slots=True)
class Source:
    """A history, and where it is from."""

    history: History
    kind: str
    """node or cluster."""
    name: str
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    """Identifies this run: after a restart numbers begin anew."""


def pieces(source: Source, run: str = "", after: int = 0) -> Iterator[str]:
    """Yield the document for a reader of this run that has seen all changes up to this number."""
    history = source.history
    gone = history.gone(after) if run == source.run else None
    if gone is None:
        after = 0
    head = {
        "run": source.run,
        "sequence": history.sequence,
        "now": round(history.clock(), 3),
        "kind": source.kind,
        "name": source.name,
        "problem": history.problem,
        "states": STATES,
        "full": gone is None,
        "gone": gone or [],
    }
    yield json.dumps(head, separators=(",", ":"))[:-1] + ',"containers":['
    separator = ""
    for lane in history.lanes:
        if lane.revision > after:
            yield separator + _encoded(lane, after)
            separator = ","
    yield "]}"


def _encoded(lane: Lane, after: int) -> str:
    seen = lane.seen
    made = {
        "id": lane.number,
        "namespace": seen.namespace,
        "pod": seen.pod,
        "name": seen.name,
        "node": seen.node,
        "state": seen.state,
        "since": round(seen.since, 3),
        "sleeps": seen.sleeps,
        "wakes": seen.wakes,
        "wokeAt": round(seen.woke_at, 3),
        "wokeMs": round(seen.woke_ms, 3),
        "backend": seen.backend,
        "out": seen.out,
        "left": seen.left,
        "maySleep": seen.may_sleep,
        "why": seen.why,
        "reasons": seen.reasons,
        "rows": [(round(at, 3), state, round(ms, 3), wakes, out) for at, state, ms, wakes, out in lane.rows(after)],
    }
    return json.dumps(made, separators=(",", ":"))
