"""A dump that ends before its time."""

import trio
from tests.unit.shim.fakes import World

from zeropod.lifecycle.cold.dump import Dump
from zeropod.runtime.command import nothing


async def test_one_that_is_cancelled_with_all_else_has_ended_and_can_be_stopped(world: World) -> None:
    """Its container has ended meanwhile. Who stops the dump is shielded, and would wait for ever."""
    world.container.store.prepare()
    world.runc.hooks["checkpoint"] = trio.sleep_forever
    dump = Dump(world.container, (), "", nothing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dump.run)
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    stopped = False
    with trio.move_on_after(5):
        await dump._ended.wait()
        stopped = True
    assert stopped
    await dump.stop()
