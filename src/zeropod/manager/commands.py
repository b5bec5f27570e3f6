"""The common part of `zeropod sleep`, `wake` and `why`: find the named containers and call each one's shim."""

import argparse
import sys
from collections.abc import Awaitable, Callable

import trio

from zeropod import paths, shims
from zeropod.manager.find import NotFound, find
from zeropod.rpc.status import RpcError
from zeropod.shims import Found

Ask = Callable[[Found], Awaitable[str]]
"""Calls the shim of one container and returns what to print. Raises RpcError."""


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"zeropod {command}", description=description)
    made.add_argument(
        "id",
        nargs="+",
        metavar="ID",
        help="a container's id, the beginning of it, namespace/id, or namespace/pod/container",
    )
    return made


def run(command: str, wanted: list[str], ask: Ask) -> int:
    """Call `ask` for each container and print the results; return the exit status, with failures on stderr."""
    status = 130
    try:
        status = trio.run(_run, command, wanted, ask)
    except* KeyboardInterrupt:
        pass
    except* PermissionError:
        sys.stderr.write(
            f"zeropod {command}: only root may ask the shims in {paths.STATUS_SOCKETS}: run it with sudo\n"
        )
        status = 1
    return status


async def _run(command: str, wanted: list[str], ask: Ask) -> int:
    containers, silent = await shims.look()
    status = 0
    for one in wanted:
        try:
            print(await ask(find(one, containers)), flush=True)
        except NotFound as error:
            status = 1
            sys.stderr.write(f"zeropod {command}: {error}\n")
            for complaint in silent:
                sys.stderr.write(f"zeropod {command}: it may be one of a shim that did not answer: {complaint}\n")
        except RpcError as error:
            status = 1
            sys.stderr.write(f"zeropod {command}: {error.message}\n")
    return status
