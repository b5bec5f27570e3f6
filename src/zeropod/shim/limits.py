"""Changed resource limits of a container, and which of them are refused."""

import json
from collections.abc import Mapping
from typing import Any

from zeropod.rpc.status import Code, RpcError

MEBIBYTE = 1 << 20


def parse(resources: bytes) -> Mapping[str, Any]:
    """Return OCI's LinuxResources from JSON. Raises RpcError."""
    try:
        changes: Mapping[str, Any] = json.loads(resources)
    except ValueError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"resources are not JSON: {error}") from error
    return changes


def check_memory(changes: Mapping[str, Any], needed: int) -> None:
    """Raise RpcError for a memory limit below `needed` bytes, at which the container would be OOM-killed on waking.

    The kernel and runc compare a limit only with memory charged to the cgroup, which excludes memory that is moved out.
    """
    limit = (changes.get("memory") or {}).get("limit") or 0
    if 0 < limit < needed:
        raise RpcError(
            Code.UNKNOWN,
            f"OCI runtime update failed: unable to set memory limit to {limit} ({limit / MEBIBYTE:.0f} MiB): the "
            f"container needs {needed} ({needed / MEBIBYTE:.0f} MiB) to come back from its sleep; set no less, or "
            "wake it (zeropod wake) and have it free memory first",
        )
