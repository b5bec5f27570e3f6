"""What probes ask one container, and what it answered when it was asked last.

A sleeping container cannot be asked whether it is well. So what probes ask is remembered, and asked again before every
sleep: what is told to a prober meanwhile is what the application itself has said to the same request. Only what has
not been asked before needs the application to run once more.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from zeropod.activator.classify import ProbeRequest
from zeropod.activator.connect import OurConnections, SocketAddress, connect
from zeropod.activator.probe_exchange import ProbeExchange, ProbeResult
from zeropod.kernel import namespace
from zeropod.kernel.lookup import FlowOrigin

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for an answer: as long as the longest nap."""

MOST = 16
"""Requests that are remembered. A container has three probes at the most, each of them one, or two with a redirect."""

STALE = 240.0
"""Seconds in which a request that fails has to be heard from a prober: a startup probe, say, is not asked for ever."""

_CHUNK = 1 << 14  # bytes


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """A request, and the socket address of the pod's that it was put to."""

    target: SocketAddress
    request: ProbeRequest

    def __str__(self) -> str:
        return f"{self.request} on port {self.target[1]}"


@dataclass(slots=True)
class _Known:
    """What is known of a request, and since when (trio's time) it has mattered whether it is still asked."""

    result: ProbeResult | None
    since: float


class ProbeResults:
    """The results of one container's probes."""

    def __init__(self, netns: namespace.PathOrFd, ours: OurConnections) -> None:
        self._netns = netns
        self._ours = ours
        self._known: dict[ProbeCheck, _Known] = {}

    def result(self, check: ProbeCheck) -> ProbeResult | None:
        """Return what the application said when it was asked last; None if it was not, or did not answer."""
        known = self._known.get(check)
        return known.result if known else None

    async def ask(self, check: ProbeCheck) -> ProbeResult | None:
        """Ask the application, which has to run, and remember what it says; None if it does not answer."""
        result = await self._ask(check)
        self._known.pop(check, None)
        self._known[check] = _Known(result, trio.current_time())
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return result

    async def ask_all(self) -> Sequence[str]:
        """Ask everything anew, at once, and return what is not well, in words.

        What has not been well for long, and was asked by no prober meanwhile, is forgotten.
        """
        async with trio.open_nursery() as nursery:
            for check, known in self._known.items():
                nursery.start_soon(self._ask_again, check, known)
        return [
            f"{check}: {known.result or 'no answer'}"
            for check, known in self._known.items()
            if not _is_well(known.result)
        ]

    async def _ask_again(self, check: ProbeCheck, known: _Known) -> None:
        was_well, known.result = _is_well(known.result), await self._ask(check)
        if was_well or _is_well(known.result):
            known.since = trio.current_time()
        elif trio.current_time() > known.since + STALE and self._known.get(check) is known:
            del self._known[check]

    async def _ask(self, check: ProbeCheck) -> ProbeResult | None:
        exchange = ProbeExchange(check.request)
        with trio.move_on_after(PATIENCE), ExitStack() as known:
            try:
                announce = self._ours.announced(FlowOrigin.PROBE, check.target[1])
                async with await connect(check.target, self._netns, announce, known) as stream:
                    while not exchange.over:
                        await stream.send_all(exchange.data_to_send())
                        exchange.receive(await stream.receive_some(_CHUNK))
            except (OSError, trio.BrokenResourceError) as error:
                log.debug("%s: %s", check, error)
        return exchange.result


def _is_well(result: ProbeResult | None) -> bool:
    return result is not None and result.well
