"""`zeropod sleep`: puts containers to sleep now, without waiting until they have been idle for long enough."""

from zeropod import shims
from zeropod.manager import commands
from zeropod.manager.find import name
from zeropod.manager.ps import state_of
from zeropod.rpc.messages.status_pb2 import ContainerStatus, SleepRequest
from zeropod.shims import Found


def main(arguments: list[str]) -> int:
    options = commands.parser("sleep", __doc__).parse_args(arguments)
    return commands.run("sleep", options.id, _ask)


async def _ask(found: Found) -> str:
    status = await shims.call(found.path, "Sleep", SleepRequest(id=found.status.id), ContainerStatus, shims.DEADLINE)
    if status.checkpoints == found.status.checkpoints:
        return f"{name(status)}: {state_of(status)}, as before"
    return f"{name(status)}: {state_of(status)}, after {status.last_checkpoint_ms:.0f} ms"
