"""What a signal asks of a container: to stop, to end at once, or something else."""

import signal

from zeropod.lifecycle.machine import Request
from zeropod.lifecycle.settings import Settings

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR, signal.SIGRTMIN + 3})
"""Signals that stop a container outside of Kubernetes; a kubelet sends none but the image's stop signal, whichever that
is, and SIGKILL."""


def request_of(number: int, settings: Settings, *, in_pod: bool) -> Request:
    """Return what this signal asks of a container with these settings."""
    if number == signal.SIGKILL:
        return Request.KILL
    if number in STOP_SIGNALS or in_pod:
        # What a sleep has ended with its stop signal already is not started for another one.
        in_order = settings.wake_on_stop and not settings.disable_checkpointing
        return Request.STOP_IN_ORDER if in_order else Request.STOP
    return Request.SIGNAL
