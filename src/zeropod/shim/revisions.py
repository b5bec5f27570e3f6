"""Numbers of the changes of a shim's containers, so that a watcher knows which of them it has missed.

For each container only the number of its last change is kept: a watcher that is slow or gone costs nothing.
"""

import trio


class Revisions:
    def __init__(self) -> None:
        self.last = 0
        """The number of the last change."""
        self._of: dict[str, int] = {}
        self._happened = trio.Event()

    def bump(self, id: str) -> None:
        """Count a change of the container with this id, or its creation."""
        self._of[id] = self._next()

    def forget(self, id: str) -> None:
        """Count the removal of a container."""
        self._of.pop(id, None)
        self._next()

    def since(self, number: int) -> list[str]:
        """Return the ids of the containers that have changed after this number, in the order of their last changes."""
        return sorted((name for name, last in self._of.items() if last > number), key=self._of.__getitem__)

    async def wait_after(self, number: int) -> None:
        """Return when there is a change after this number."""
        while self.last <= number:
            await self._happened.wait()

    def _next(self) -> int:
        self.last += 1
        self._happened.set()
        self._happened = trio.Event()
        return self.last
