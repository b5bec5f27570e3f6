"""Structured concurrency that several layers need: a race between waits, and a nursery that contains failures."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

import trio

_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


async def race(
    *waits: Callable[[], Awaitable[_Result]], on_first: Callable[[_Result], object] = lambda _: None
) -> _Result:
    """Return the result of the first wait that returns, and cancel the others. Waits for ever if there are none.

    What a wait raises before that comes out as it is, not in the group that a nursery would make of it; what one raises
    after that is logged, and does not take the result's place. `on_first` is called with the result at once: the end
    of the other waits takes half a millisecond. What it raises comes out.
    """
    failures: list[Exception] = []
    results: list[_Result] = []
    async with trio.open_nursery() as nursery:

        async def run(wait: Callable[[], Awaitable[_Result]]) -> None:
            try:
                result = await wait()
                if not results and not failures:
                    on_first(result)
                    results.append(result)
            except Exception as error:  # noqa: BLE001 - raised again below
                failures.append(error)
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(run, wait)
        await trio.sleep_forever()
    if failures and not results:
        raise failures[0]
    for failure in failures:
        log.warning("a wait failed after another one had returned: %r", failure)
    return results[0]


class TaskStarter(Protocol):
    """What may be asked of a nursery by those who only start tasks in it."""

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task."""

    async def start(self, task: Callable[..., Awaitable[object]], *args: Any) -> Any:
        """Start a task and return when it says that it has started, with what it says; raise what it raises before."""


class GuardedNursery:
    """Starts tasks in a nursery, and tells of the first one that fails instead of ending all others.

    Whatever an exception there means, it is for the owner to decide: it waits for `failed`, or asks `failure`.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._failed = trio.Event()
        self.failure: Exception | None = None
        """The first one."""

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task whose failure is told by `failed`."""
        self._nursery.start_soon(self._run, task, args)

    async def start(self, task: Callable[..., Awaitable[object]], *args: Any) -> Any:
        """Start a task and return when it says that it has started, with what it says; raise what it raises before."""
        return await self._nursery.start(partial(self._run_started, task, args))

    async def failed(self) -> Exception:
        """Return the first failure of a task, when there is one."""
        await self._failed.wait()
        assert self.failure is not None
        return self.failure

    async def _run(self, task: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            await task(*args)
        except Exception as error:  # noqa: BLE001 - told to the owner, who decides
            self._tell(error)

    async def _run_started(
        self, task: Callable[..., Awaitable[object]], args: tuple[Any, ...], *, task_status: trio.TaskStatus[Any]
    ) -> None:
        status = _Status(task_status)
        try:
            await task(*args, task_status=status)
        except Exception as error:
            if not status.has_started:
                raise
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        self._failed.set()


class _Status:
    """Passes on that a task has started, and remembers it."""

    def __init__(self, status: trio.TaskStatus[Any]) -> None:
        self._status = status
        self.has_started = False

    def started(self, value: Any = None) -> None:
        self.has_started = True
        self._status.started(value)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, of groups too; an exception that is not a group itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error
