"""`zeropod hibernate`: has sleeping containers on disk as a whole, to come back with their memory after a restart."""

import os
import sys

import trio

from zeropod import shims
from zeropod.manager import commands
from zeropod.manager.commands import name
from zeropod.rpc.messages.status_pb2 import HibernateRequest, HibernateResponse, State
from zeropod.rpc.status import RpcError
from zeropod.runtime.quantity import shown
from zeropod.shims import Found

ASLEEP = (State.STANDBY, State.COLD, State.CHECKPOINTING, State.DOZING)

AT_ONCE = 4
"""Shims that are asked at the same time: each writes an image."""


def main(arguments: list[str]) -> int:
    parser = commands.parser("hibernate", __doc__, at_least_one=False)
    parser.add_argument(
        "--all", action="store_true", help="all that sleep and have the annotation keep-on-restart, before a shutdown"
    )
    options = parser.parse_args(arguments)
    if options.all == bool(options.id):
        parser.error("name containers, or --all")
    status = commands.run_alone("hibernate", _all) if options.all else commands.run("hibernate", options.id, _ask)
    os.sync()  # what the next boot is to find
    return status


async def _ask(found: Found) -> str:
    request = HibernateRequest(id=found.status.id)
    answer = await shims.call(found.path, "Hibernate", request, HibernateResponse, shims.DEADLINE)
    return f"{name(found.status)}: hibernates, {shown(answer.bytes)} on disk"


async def _all() -> int:
    """Ask all shims; containers that are awake, or have no annotation, are passed over."""
    containers, silent = await shims.look()
    status = 1 if silent else 0
    for complaint in silent:
        sys.stderr.write(f"zeropod hibernate: a shim did not answer: {complaint}\n")
    limit = trio.CapacityLimiter(AT_ONCE)

    async def hibernate(found: Found) -> None:
        nonlocal status
        try:
            async with limit:
                print(await _ask(found), flush=True)
        except RpcError as error:
            status = 1
            sys.stderr.write(f"zeropod hibernate: {error.message}\n")

    async with trio.open_nursery() as nursery:
        for found in containers:
            if found.status.keep_on_restart and found.status.state in ASLEEP:
                nursery.start_soon(hibernate, found)
    return status
