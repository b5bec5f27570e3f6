"""`zeropod sleep`, `wake` and `why`: find the containers that a person names, and call each one's shim."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from zeropod import paths, shims
from zeropod.manager.ps import as_dict, state_of
from zeropod.rpc.messages.status_pb2 import ContainerStatus, SleepRequest, WakeRequest, WhyRequest, WhyResponse
from zeropod.rpc.status import RpcError
from zeropod.shims import Found

_Ask = Callable[[Found], Awaitable[str]]
"""Calls the shim of one container and returns what to print. Raises RpcError."""


def parser(command: str, description: str | None, *, at_least_one: bool = True) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"zeropod {command}", description=description)
    made.add_argument(
        "id",
        nargs="+" if at_least_one else "*",
        metavar="ID",
        help="a container's id, the beginning of it, namespace/id, or namespace/pod/container",
    )
    return made


def _run(command: str, wanted: list[str], ask: _Ask) -> int:
    """Call `ask` for each container and print the results; return the exit status, with failures on stderr."""
    return run_alone(command, partial(_run, command, wanted, ask))


def run_alone(command: str, work: Callable[[], Awaitable[int]]) -> int:
    """Return the exit status that the work returns, or that of what ends it."""
    status = 130
    try:
        status = trio.run(work)
    except* KeyboardInterrupt:
        pass
    except* PermissionError:
        sys.stderr.write(
            f"zeropod {command}: only root may ask the shims in {paths.STATUS_SOCKETS}: run it with sudo\n"
        )
        status = 1
    return status


async def _ask_all(command: str, wanted: list[str], ask: _Ask) -> int:
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


class NotFound(Exception):  # noqa: N818 - what a user is told
    """No container matches, or several do; the text says which."""


def find(wanted: str, among: Sequence[Found]) -> Found:
    """Return the container with this id, with this unique beginning of an id, or with this name. Raises NotFound.

    A name is namespace/pod/container; the container may be left out if the pod has only one. The name of a container
    without a pod is containerd's namespace/id.
    """
    exact = [entry for entry in among if entry.status.id == wanted]
    found = exact or [entry for entry in among if _is(wanted, entry.status)]
    if len(found) == 1:
        return found[0]
    if not found:
        there = "zeropod ps lists them" if among else "there is none on this node"
        raise NotFound(f"no container {wanted}; {there}")
    names = ", ".join(name(entry.status) for entry in found)
    raise NotFound(f"{wanted} may be any of {len(found)} containers: {names}")


def name(status: ContainerStatus) -> str:
    """Return a container's name for messages."""
    if not status.pod:
        return f"{status.namespace}/{status.id}"
    return f"{status.pod_namespace}/{status.pod}/{status.container or '(sandbox)'} ({status.id[:13]})"


def _is(wanted: str, status: ContainerStatus) -> bool:
    parts = wanted.split("/")
    if len(parts) == 1:
        return bool(wanted) and status.id.startswith(wanted)
    if not status.pod and parts == [status.namespace, status.id]:
        return True
    is_sandbox = status.id == status.sandbox
    return not is_sandbox and parts == [status.pod_namespace, status.pod, status.container][: len(parts)]
