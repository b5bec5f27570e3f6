"""`zeropod sleep`, `wake` and `why`: find the containers that a person names, and call each one's shim."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

from zeropod import paths, shims
from zeropod.manager.ps import as_dict, state_of
from zeropod.rpc.messages.status_pb2 import ContainerStatus, SleepRequest, WakeRequest, WhyRequest, WhyResponse
from zeropod.rpc.status import RpcError
from zeropod.shims import Found

Ask = Callable[[Found], Awaitable[str]]
"""Calls the shim of one container and returns what to print. Raises RpcError."""


def sleep(arguments: list[str]) -> int:
    """`zeropod sleep`: puts containers to sleep now, without waiting until they have been idle for long enough."""

    async def ask(found: Found) -> str:
        request = SleepRequest(id=found.status.id)
        status = await shims.call(found.path, "Sleep", request, ContainerStatus, shims.DEADLINE)
        slept = status.checkpoints != found.status.checkpoints
        return _now(status, f"after {status.last_checkpoint_ms:.0f} ms" if slept else "as before")

    return run("sleep", parser("sleep", sleep.__doc__).parse_args(arguments).id, ask)


def wake(arguments: list[str]) -> int:
    """`zeropod wake`: wakes containers.

    They fall asleep again when they have been idle for their scaledown-duration.
    """

    async def ask(found: Found) -> str:
        request = WakeRequest(id=found.status.id)
        status = await shims.call(found.path, "Wake", request, ContainerStatus, shims.DEADLINE)
        woke = status.restores != found.status.restores
        return _now(status, f"after {status.last_restore_ms:.1f} ms" if woke else "as before")

    return run("wake", parser("wake", wake.__doc__).parse_args(arguments).id, ask)


def why(arguments: list[str]) -> int:
    """`zeropod why`: shows everything that keeps a container awake or out of COLD, and what to do about it."""
    made = parser("why", why.__doc__)
    made.add_argument("--json", action="store_true", help="one JSON object a line, as `zeropod ps --json` has them")
    options = made.parse_args(arguments)
    show = _as_json if options.json else _as_text

    async def ask(found: Found) -> str:
        request = WhyRequest(id=found.status.id)
        return show(await shims.call(found.path, "Why", request, WhyResponse, shims.PATIENCE))

    return run("why", options.id, ask)


def _now(status: ContainerStatus, when: str) -> str:
    return f"{name(status)}: {state_of(status)}, {when}"


def _as_text(answer: WhyResponse) -> str:
    """Return the reasons, one per line, each followed by its remedy."""
    lines = [f"{name(answer.status)}: {state_of(answer.status)}"]
    for reason in answer.reasons:
        lines.append(f"  {reason.kind:<10}  {reason.text}")
        if reason.remedy:
            lines.append(f"  {'':<10}  > {reason.remedy}")
    return "\n".join(lines)


def _as_json(answer: WhyResponse) -> str:
    reasons: list[dict[str, Any]] = [
        {"kind": reason.kind, "text": reason.text, "remedy": reason.remedy or None} for reason in answer.reasons
    ]
    return json.dumps({**as_dict(answer.status), "reasons": reasons})


def parser(command: str, description: str | None, *, at_least_one: bool = True) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"zeropod {command}", description=description)
    made.add_argument(
        "id",
        nargs="+" if at_least_one else "*",
        metavar="ID",
        help="a container's id, the beginning of it, namespace/id, or namespace/pod/container",
    )
    return made


def run(command: str, wanted: list[str], ask: Ask) -> int:
    """Call `ask` for each container and print the results; return the exit status, with failures on stderr."""
    return run_alone(command, partial(_ask_all, command, wanted, ask))


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


async def _ask_all(command: str, wanted: list[str], ask: Ask) -> int:
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
