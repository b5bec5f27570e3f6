"""Asks containerd's CRI plugin, over its socket, what version it has and which handlers it knows."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from zeropod.rpc import grpc
from zeropod.rpc.messages.cri_pb2 import StatusRequest, StatusResponse, VersionRequest, VersionResponse
from zeropod.rpc.status import RpcError

SERVICE = "/runtime.v1.RuntimeService"
PATIENCE = 10.0
"""Seconds for one answer."""
POLL = 0.2
"""Seconds between two questions to a containerd that is starting."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What a running containerd says of itself."""

    version: str
    handlers: Mapping[str, Mapping[str, Any]]
    """By name, each as it is configured, with the keys of CRI's JSON."""
    default: str

    @property
    def major(self) -> int:
        return major(self.version)

    @property
    def ordinary(self) -> Mapping[str, Any] | None:
        return self.handlers.get(self.default)


def major(version: str) -> int:
    """Of `v2.1.9`, `1.7.24~ds1` or `containerd github.com/… 1.7.24 …`; 0 if there is none in it."""
    for word in version.split():
        head = word.lstrip("v").partition(".")[0]
        if head.isdecimal() and "." in word:
            return int(head)
    return 0


def ask(socket: str) -> Handlers:
    """Raises RpcError; UNAVAILABLE where no containerd listens."""
    return trio.run(_ask, socket)


async def _ask(socket: str) -> Handlers:
    version = await grpc.call(socket, f"{SERVICE}/Version", VersionRequest(), VersionResponse, timeout=PATIENCE)
    status = await grpc.call(socket, f"{SERVICE}/Status", StatusRequest(verbose=True), StatusResponse, timeout=PATIENCE)
    return parse(version.runtime_version, status.info.get("config", "{}"))


def parse(version: str, config: str) -> Handlers:
    """`config` is the JSON of the CRI plugin's configuration, which has the same keys in containerd 1.7 and 2."""
    try:
        found = json.loads(config).get("containerd") or {}
        runtimes, default = found.get("runtimes") or {}, found.get("defaultRuntimeName") or "runc"
    except (ValueError, AttributeError):
        runtimes, default = {}, "runc"
    return Handlers(version, runtimes, default)


def wait(socket: str, handler: str, seconds: float, *, present: bool = True) -> str | None:
    """Waits until containerd knows the handler, or does not any more. Returns what is wrong after that time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = ask(socket)
            if (handler in found.handlers) == present:
                return None
            said = f"containerd {found.version} knows the handlers {', '.join(sorted(found.handlers)) or 'none'}"
        except RpcError as error:
            said = f"containerd does not answer: {error}"
        if time.monotonic() > deadline:
            return f"{said}, after {seconds:g} s"
        time.sleep(POLL)
