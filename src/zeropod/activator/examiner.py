"""What probes ask one container, and what it answered when it was asked last.

A sleeping container cannot be asked whether it is well. So what probes ask is remembered, and asked again before every
sleep: what is told to a prober meanwhile is what the application itself has said to the same question. Only what has
not been asked before needs the application to run once more.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from zeropod.activator.asking import Asking, Outcome
from zeropod.activator.connect import OurConnections, SocketAddress, connect
from zeropod.activator.opening import Question
from zeropod.kernel import namespace
from zeropod.kernel.lookup import Said

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for an answer: as long as the longest nap."""

MOST = 16
"""Questions that are remembered. A container has three probes at the most, each of them one, or two with a redirect."""

STALE = 240.0
"""Seconds in which a question that fails has to be heard from a prober: a startup probe, say, is not asked for ever."""

_CHUNK = 1 << 14  # bytes


@dataclass(frozen=True, slots=True)
class Examination:
    """A question, and the socket address of the pod's that it was put to."""

    target: SocketAddress
    question: Question

    def __str__(self) -> str:
        return f"{self.question} on port {self.target[1]}"


@dataclass(slots=True)
class _Known:
    """What is known of a question, and since when (trio's time) it has mattered whether anybody still asks it."""

    outcome: Outcome | None
    since: float


class Examiner:
    """One container's."""

    def __init__(self, netns: namespace.PathOrFd, ours: OurConnections) -> None:
        self._netns = netns
        self._ours = ours
        self._known: dict[Examination, _Known] = {}

    def outcome(self, examination: Examination) -> Outcome | None:
        """What came of it when the application was asked last; None if it was not, or if it did not answer."""
        known = self._known.get(examination)
        return known.outcome if known else None

    async def ask(self, examination: Examination) -> Outcome | None:
        """Asks the application, which has to run, what a prober asks, and remembers it. None if there is no answer."""
        outcome = await self._ask(examination)
        self._known.pop(examination, None)
        self._known[examination] = _Known(outcome, trio.current_time())
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return outcome

    async def ask_all(self) -> Sequence[str]:
        """Asks everything anew, at once; what is not well, in words.

        What has not been well for long, and was asked by no prober meanwhile, is forgotten.
        """
        async with trio.open_nursery() as nursery:
            for examination, known in self._known.items():
                nursery.start_soon(self._ask_again, examination, known)
        return [
            f"{examination}: {known.outcome or 'no answer'}"
            for examination, known in self._known.items()
            if not _is_well(known.outcome)
        ]

    async def _ask_again(self, examination: Examination, known: _Known) -> None:
        was_well, known.outcome = _is_well(known.outcome), await self._ask(examination)
        if was_well or _is_well(known.outcome):
            known.since = trio.current_time()
        elif trio.current_time() > known.since + STALE and self._known.get(examination) is known:
            del self._known[examination]

    async def _ask(self, examination: Examination) -> Outcome | None:
        asking = Asking(examination.question)
        with trio.move_on_after(PATIENCE), ExitStack() as known:
            try:
                announce = self._ours.announced(Said.A_PROBES, examination.target[1])
                async with await connect(examination.target, self._netns, announce, known) as stream:
                    while not asking.over:
                        await stream.send_all(asking.data_to_send())
                        asking.receive(await stream.receive_some(_CHUNK))
            except (OSError, trio.BrokenResourceError) as error:
                log.debug("%s: %s", examination, error)
        return asking.outcome


def _is_well(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.well
