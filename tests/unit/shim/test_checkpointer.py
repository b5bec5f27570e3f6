"""The way from a container that runs to its image, where it ends before it has begun."""

from unittest.mock import Mock

import pytest
from tests.unit.shim.fakes import World

from zeropod.runtime.tmpfs import KeptMounts
from zeropod.shim.checkpointer import Checkpointer
from zeropod.shim.pace import Pace
from zeropod.shim.stages import Stages
from zeropod.shim.way import StillBusy


async def test_a_container_whose_processes_have_just_ended_is_not_dumped(world: World) -> None:
    """Its cgroup is empty and its exit not yet known. It is nothing that may end the shim of its pod."""
    await world.container.create()
    kept = KeptMounts(world.runc.bundle / "tmpfs")
    # What is held is not looked at: there is nothing to be held yet.
    checkpointer = Checkpointer(world.container, Mock(), world.host.nursery, Mock(), Mock(), kept)
    with pytest.raises(StillBusy, match="about to end"):
        await checkpointer.checkpoint(Pace(world.host.nursery), Stages())
    assert "checkpoint" not in world.runc.calls
