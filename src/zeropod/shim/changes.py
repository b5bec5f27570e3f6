"""Numbers the changes of a shim's containers, so that whoever watches them knows what it has not heard of yet.

Kept for each container is the number of its last change alone: a watcher that is slow, or gone, costs nothing.
"""

import trio


class Changes:
    def __init__(self) -> None:
        self.last = 0
        """The number of the last change."""
        self._of: dict[str, int] = {}
        self._happened = trio.Event()

    def note(self, id: str) -> None:
        """The container with this id has changed, or is new."""
        self._of[id] = self._next()

    def forget(self, id: str) -> None:
        """The container does not exist any more."""
        self._of.pop(id, None)
        self._next()

    def since(self, number: int) -> list[str]:
        """Ids of the containers that have changed after the change of this number, in the order in which they did."""
        return sorted((name for name, last in self._of.items() if last > number), key=self._of.__getitem__)

    async def beyond(self, number: int) -> None:
        """Returns when there have been changes after the one of this number."""
        while self.last <= number:
            await self._happened.wait()

    def _next(self) -> int:
        self.last += 1
        self._happened.set()
        self._happened = trio.Event()
        return self.last
