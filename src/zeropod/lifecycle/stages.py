"""How long each stage of a fall into sleep or of a wake took: what the shim's log says about it, and nothing else.

A stage ends where the next one begins, so that no time is left out.
"""

import time


class Stages:
    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._taken: dict[str, float] = {}

    def end(self, name: str) -> None:
        """What was done since the last stage was `name`; a name that comes again is added up."""
        now = time.monotonic()
        self._taken[name] = self._taken.get(name, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in self._taken.items()) + " ms"
