"""How a container leaves: what asks it to, and what comes of that.

Hibernation leaves an export on the node's disk for the container's successor there. Until that takes it, the container
sleeps as in COLD: what comes for it brings it back.
"""

import logging
from typing import TYPE_CHECKING

from zeropod.lifecycle.departure import Departure, Exported
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Reason
from zeropod.rpc.status import Code, RpcError
from zeropod.shim import arrival

if TYPE_CHECKING:
    from zeropod.shim.container import Container

log = logging.getLogger(__name__)

ON_THE_WAY = (State.CHECKPOINTING, State.RESTORING, State.DOZING)


async def hibernate(container: "Container") -> Exported:
    """Have a sleeping container on disk as a whole. Raises RpcError, and it is as before then."""
    life = container.life
    while life.state in ON_THE_WAY:
        await life.changed()
    if not container.settings.keep_on_restart:
        raise _refused(container, "nothing would come back from it: it has no annotation keep-on-restart")
    if container.controller is None or container.controller.strategy is None:
        raise _refused(container, str(life.explanation or Reason.NEVER.because()))
    if life.departure:
        if life.departure.is_kept and (exported := await life.departure.exported()):
            return exported
        raise _refused(container, "it is leaving already")
    if life.state not in (State.STANDBY, State.COLD):
        raise _refused(container, f"it is not asleep: {life.why or life.state.name.lower()}")
    departure = Departure(arrival.key_of(container), arrival.source_of(container), wakes=True)
    departure.is_kept = True
    life.leave(departure)
    if exported := await departure.exported():
        return exported
    raise _refused(container, str(departure.why))


def _refused(container: "Container", why: str) -> RpcError:
    return RpcError(Code.FAILED_PRECONDITION, f"cannot hibernate {container.id}: {why}")
