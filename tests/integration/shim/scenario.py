"""What a scenario is: something done with a runtime, and the facts that anyone can observe of it.

A scenario is registered in TABLE by its decorator. It must not say which runtime it is for: the same function is run
with containerd's own runc shim and with ours, and the facts have to be equal. So a fact holds nothing that differs from
run to run by nature (ids, pids, times).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.integration.containerd import Container, Containerd, Events
from tests.integration.endpoint import Refused

Outcome = dict[str, object]

# Ids that Container makes up, and those of the CRI.
_IDS = re.compile(r"\bc-[0-9a-f]{12}\b|\b[0-9a-f]{64}\b")
_NUMBERS = re.compile(r"\b(pid|PID|process|fd)[ /=:]?\d+\b")


@dataclass(frozen=True, slots=True)
class World:
    """What a scenario works with."""

    runtime: str
    """The runtime type, for containers by containerd's API."""
    handler: str
    """The runtime handler, for pods."""
    client: Containerd
    events: Events

    def container(self, *args: str, **settings: Any) -> Container:
        return self.client.container(*args, runtime=self.runtime, **settings)

    def topics(self, container: Container, last: str, count: int = 1) -> list[str]:
        """The events of the container in order, up to `count` of the topic `last`; whose they are, if not init's."""
        events = self.events.until(container.id, last, count)
        return [event.topic if event.process == container.id else f"{event.topic} {event.process}" for event in events]


Scenario = Callable[[World], Outcome]
TABLE: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Put a scenario into the table."""
    TABLE[function.__name__] = function
    return function


def normal(message: str) -> str:
    """A message without what differs from run to run."""
    return _NUMBERS.sub(r"\1 N", _IDS.sub("ID", message))


def refusal(action: Callable[[], object]) -> str:
    """How an action is refused, code and message; "accepted" if it is not."""
    try:
        action()
    except Refused as refused:
        return f"{refused.code}: {normal(refused.message)}"
    return "accepted"


def text(data: bytes) -> str:
    return data.decode(errors="replace")
