"""What the manager's flags say about migration."""

import argparse
import re
from collections.abc import Mapping

from zeropod.manager.migration.names import PORT
from zeropod.manager.migration.settings import Settings
from zeropod.runtime.quantity import quantity

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def settings(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return what the flags and the pod's environment say. Raises ValueError, with the flag that means nothing."""
    host = environment.get("POD_IP", "")
    if not host:
        raise ValueError("--migration: POD_IP in the environment has to say where other nodes reach this one")
    _, _, port = options.node_server_addr.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--node-server-addr: {options.node_server_addr!r} is no address, such as :{PORT}")
    try:
        bandwidth = quantity(options.migration_bandwidth)
    except ValueError as error:
        raise ValueError(f"--migration-bandwidth: {options.migration_bandwidth!r} is not {error}") from None
    return Settings(
        options.node_name,
        host,
        int(port),
        claim_timeout=_seconds("--migration-claim-timeout", options.migration_claim_timeout),
        ready_timeout=_seconds("--migration-ready-timeout", options.migration_ready_timeout),
        servers_timeout=_seconds("--migration-servers-timeout", options.migration_servers_timeout),
        bandwidth=bandwidth,
    )


def _seconds(flag: str, text: str) -> float:
    if not (found := _DURATION.fullmatch(text)):
        raise ValueError(f"{flag}: {text!r} is not a duration such as 10s or 5m")
    return float(found[1]) * _SECONDS[found[2]]
