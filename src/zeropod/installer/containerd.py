"""Query containerd's CRI plugin, over its socket, for its version and its handlers."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from zeropod.installer import handler
from zeropod.installer.errors import InstallError
from zeropod.rpc import grpc
from zeropod.rpc.messages.cri_pb2 import StatusRequest, StatusResponse, VersionRequest, VersionResponse
from zeropod.rpc.status import RpcError

SERVICE = "/runtime.v1.RuntimeService"
PATIENCE = 10.0
"""Seconds for one answer."""
VERIFYING = 60.0
"""Seconds for containerd to know the handler, or to forget it, after its restart."""
POLL = 0.2
"""Seconds between queries of a containerd that is starting."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """The version and handlers of a running containerd."""

    version: str
    handlers: Mapping[str, Mapping[str, Any]]
    """By name, each as it is configured, with the keys of CRI's JSON."""
    ordinary: Mapping[str, Any] | None
    """The one that pods have without a RuntimeClass."""


def major(version: str) -> int:
    """Return the major version from `v2.1.9`, `1.7.24~ds1` or `containerd github.com/… 1.7.24 …`; 0 if there is
    none."""
    for word in version.split():
        head = word.lstrip("v").partition(".")[0]
        if head.isdecimal() and "." in word:
            return int(head)
    return 0


def ask(socket: str) -> Handlers:
    """Query containerd. Raises RpcError; UNAVAILABLE if none listens."""
    return trio.run(_ask, socket)


async def _ask(socket: str) -> Handlers:
    version = await grpc.call(socket, f"{SERVICE}/Version", VersionRequest(), VersionResponse, timeout=PATIENCE)
    status = await grpc.call(socket, f"{SERVICE}/Status", StatusRequest(verbose=True), StatusResponse, timeout=PATIENCE)
    return parse(version.runtime_version, status.info.get("config", "{}"))


def parse(version: str, config: str) -> Handlers:
    """Return the handlers. `config` is the JSON of the CRI plugin's configuration, with the same keys in containerd 1.7
    and 2."""
    try:
        found = json.loads(config).get("containerd") or {}
        runtimes, default = found.get("runtimes") or {}, found.get("defaultRuntimeName") or "runc"
    except (ValueError, AttributeError):
        runtimes, default = {}, "runc"
    return Handlers(version, runtimes, runtimes.get(default))


def verify(socket: str, *, present: bool) -> None:
    """Wait until containerd knows our handler, or does not any more. Raises InstallError after `VERIFYING`."""
    deadline = time.monotonic() + VERIFYING
    while True:
        try:
            found = ask(socket)
            if (handler.NAME in found.handlers) == present:
                return
            said = f"containerd {found.version} knows the handlers {', '.join(sorted(found.handlers)) or 'none'}"
        except RpcError as error:
            said = f"containerd does not answer: {error}"
        if time.monotonic() > deadline:
            wrong = "no {}: see containerd's log" if present else "should not know {} any more"
            raise InstallError(f"{said}, after {VERIFYING:g} s, and {wrong.format(handler.NAME)}")
        time.sleep(POLL)
