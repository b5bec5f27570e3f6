"""The memory of a sleeping container stays where it is: it is small, or the node has no place for it.

Owns nothing: freezing is all that such a container's sleep is.
"""

from collections.abc import Sequence

import trio

from .backend import Kind, Usage


class ResidentBackend:
    """The backend that moves nothing."""

    @property
    def kind(self) -> Kind:
        return Kind.RESIDENT

    @property
    def usage(self) -> Usage:
        return Usage()

    @property
    def descriptors(self) -> frozenset[tuple[int, int]]:
        return frozenset()

    async def move_out(self, pids: Sequence[int]) -> None:  # noqa: ARG002 - the protocol's
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """Do nothing: nothing goes on."""

    async def settle(self) -> None:
        await trio.lowlevel.checkpoint()

    async def fill(self) -> None:
        await trio.lowlevel.checkpoint()

    async def bring_back(self) -> None:
        await trio.lowlevel.checkpoint()

    async def lost(self) -> str:
        await trio.sleep_forever()
        raise AssertionError("slept for ever")

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
