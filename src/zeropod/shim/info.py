"""`-info`: the runtime's name and features, which containerd's CRI plugin queries at its start.

The features are runc's; Kubernetes learns of user namespaces and recursive read-only mounts from them.
"""

import subprocess
import sys

from google.protobuf.any_pb2 import Any

from zeropod import __version__
from zeropod.launch.flags import Flags
from zeropod.rpc.messages import introspection_pb2, runc_options_pb2
from zeropod.rpc.payload import decode, unpack
from zeropod.rpc.status import RpcError
from zeropod.runtime.programs import environment

NAME = "io.containerd.zeropod.v2"

FEATURES_URL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
"""The type URL of OCI's features document as JSON (containerd's typeurl registration)."""

TIMEOUT = 10.0
"""Seconds for `runc features`."""


def main(flags: Flags) -> int:
    del flags
    try:
        options = decode(Any, b"" if sys.stdin.isatty() else sys.stdin.buffer.read())
        runtime = unpack(options, runc_options_pb2.Options)
    except RpcError as error:
        sys.stderr.write(f"containerd-shim-zeropod-v2: the options on stdin cannot be read: {error.message}\n")
        return 1
    info = introspection_pb2.RuntimeInfo(name=NAME)
    info.version.version = __version__
    if runtime:
        info.options.CopyFrom(options)
    features = _features((runtime and runtime.binary_name) or "runc")
    if features:
        info.features.CopyFrom(Any(type_url=FEATURES_URL, value=features))
    sys.stdout.buffer.write(info.SerializeToString())
    return 0


def _features(binary: str) -> bytes:
    """Return runc's features; none for a runtime without that command, such as an old runc."""
    try:
        command = [binary, "features"]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, env=environment(), check=False)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return b"" if done.returncode else done.stdout
