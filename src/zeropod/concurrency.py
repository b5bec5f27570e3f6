"""Structured concurrency for several layers: a race between waits, and a nursery that contains failures."""

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

    An exception of a wait before the first result is raised as it is, not in a group; one raised afterwards is logged,
    and the result is returned. `on_first` is called with the result at once, because cancelling the other waits takes
    half a millisecond; its exceptions are raised, too.
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
    """The part of a nursery's interface that starts tasks."""

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task."""

    async def start(self, task: Callable[..., Awaitable[object]], *args: Any) -> Any:
        """Start a task, and return the value that it reports when it has started; raise its exception if it fails
        before."""


class GuardedNursery:
    """Starts tasks in a nursery, and reports the first failure instead of cancelling all other tasks.

    The owner decides what an exception means: it waits for `failed`, or reads `failure`.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._failed = trio.Event()
        self.failure: Exception | None = None
        """The first failure."""

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task; `failed` reports its failure."""
        self._nursery.start_soon(self._run, task, args)

    async def start(self, task: Callable[..., Awaitable[object]], *args: Any) -> Any:
        """Start a task, and return the value that it reports when it has started; raise its exception if it fails
        before."""
        return await self._nursery.start(partial(self._run_started, task, args))

    async def failed(self) -> Exception:
        """Wait for the first failure of a task, and return it."""
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
    """Forwards the report that a task has started, and remembers it."""

    def __init__(self, status: trio.TaskStatus[Any]) -> None:
        self._status = status
        self.has_started = False

    def started(self, value: Any = None) -> None:
        self.has_started = True
        self._status.started(value)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, including nested groups; the exception itself if it is not a group."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error
