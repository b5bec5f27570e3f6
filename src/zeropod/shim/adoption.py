"""A container whose processes come back out of an export, instead of being created: its Create, and its Start."""

from pathlib import Path
from typing import TYPE_CHECKING

import trio

from zeropod.lifecycle.arrival import Arrival, Coming
from zeropod.lifecycle.cold.restorer import let_run
from zeropod.lifecycle.machine import Action, Event
from zeropod.lifecycle.suspend import FREEZE
from zeropod.rpc.messages import events_pb2
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.stdio import ProcessIO

if TYPE_CHECKING:
    from zeropod.shim.container import Container


async def adopt(container: "Container", coming: Coming) -> None:
    """Have its processes come back, up to where they would run. Raises AdoptionFailed, StdioError."""
    controller, arrival = container.controller, Arrival(coming)
    assert controller is not None

    async def come(_console: Path | None) -> None:
        container.pod.nursery.start_soon(controller.run, arrival)
        await arrival.here()

    try:
        await container.run_command(container.init, come)
    except BaseException:
        # The streams are closed, and opened anew for what is created instead.
        container.init.io = ProcessIO(container.init.stdio)
        raise
    container.arrival = arrival
    container.begin_copying()


async def start(container: "Container", arrival: Arrival) -> int:
    """Let it run; or leave it frozen, and have its sleep go on, without it having run. Return its pid."""
    init_process = container.init_process
    assert init_process is not None
    event = Event.START
    if arrival.coming.manifest.asleep:
        try:
            await init_process.cgroup.freeze(trio.current_time() + FREEZE)
            event = Event.START_ASLEEP
        except (CgroupError, OSError) as error:
            # It is the only one that can go on: awake, then.
            container.log.warning("came back asleep, but cannot be frozen, and runs: %s", error)
            init_process.cgroup.thaw()
    let_run(init_process)
    row = container.life.happen(event)
    container.publish(events_pb2.TaskStart(container_id=container.id, pid=container.init.pid))
    container.has_started.set()
    arrival.start(row or (Action.AWAIT_IDLE,))
    return container.init.pid
