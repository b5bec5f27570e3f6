"""`zeropod wake`: wakes containers. They fall asleep again when they have been idle for their scaledown-duration."""

from zeropod import shims
from zeropod.manager import commands
from zeropod.manager.find import name
from zeropod.manager.ps import state_of
from zeropod.rpc.messages.status_pb2 import ContainerStatus, WakeRequest
from zeropod.shims import Found


def main(arguments: list[str]) -> int:
    options = commands.parser("wake", __doc__).parse_args(arguments)
    return commands.run("wake", options.id, _ask)


async def _ask(found: Found) -> str:
    status = await shims.call(found.path, "Wake", WakeRequest(id=found.status.id), ContainerStatus, shims.DEADLINE)
    if status.restores == found.status.restores:
        return f"{name(status)}: {state_of(status)}, as before"
    return f"{name(status)}: {state_of(status)}, after {status.last_restore_ms:.1f} ms"
