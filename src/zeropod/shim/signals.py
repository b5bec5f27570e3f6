"""The request that a signal means: to stop in order, to end at once, or neither."""

import signal

from zeropod import paths
from zeropod.lifecycle.machine import Life, Request
from zeropod.lifecycle.settings import Settings

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR, signal.SIGRTMIN + 3})
"""Signals that stop a container outside of Kubernetes. A kubelet sends only the image's stop signal, whichever it is,
and SIGKILL."""


def request_of(number: int, settings: Settings, *, in_pod: bool) -> Request:
    """Return the request that this signal is for a container with these settings."""
    if number == signal.SIGKILL:
        return Request.KILL
    if number in STOP_SIGNALS or in_pod:
        # A container that sleeps by being ended has got its stop signal already: it is not started again for another
        # one.
        in_order = settings.wake_on_stop and not settings.disable_checkpointing
        return Request.STOP_IN_ORDER if in_order else Request.STOP
    return Request.SIGNAL


def hibernates(life: Life) -> bool:
    """Return whether it is on disk for its successor: a shutdown must not bring it back to let it end in order."""
    departure = life.departure
    return departure is not None and departure.is_kept and departure.result is not None


def may_leave(settings: Settings, *, asked: bool) -> bool:
    """Return whether its stop may be that it goes on elsewhere, which the node's manager decides."""
    wanted = settings.migrate or settings.live_migrate or asked
    return wanted and not settings.disable_checkpointing and not settings.dry_run and paths.has_manager()
