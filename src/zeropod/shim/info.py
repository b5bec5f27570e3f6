"""`-info`: what this runtime is and can do, as containerd's CRI asks at its start.

The features are runc's own; from them Kubernetes learns of user namespaces and recursive read-only mounts.
"""

import subprocess
import sys

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from zeropod import __version__
from zeropod.launch.flags import Flags
from zeropod.rpc.messages import introspection_pb2, runc_options_pb2
from zeropod.runtime.programs import environment

NAME = "io.containerd.zeropod.v2"

FEATURES_URL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
"""The type of OCI's features document, in JSON (containerd's typeurl registration)."""

TIMEOUT = 10.0
"""Seconds for `runc features`."""


def main(flags: Flags) -> int:
    del flags
    options = Any()
    if not sys.stdin.isatty():
        try:
            options.ParseFromString(sys.stdin.buffer.read())
        except DecodeError as error:
            sys.stderr.write(f"containerd-shim-zeropod-v2: the options on stdin cannot be read: {error}\n")
            return 1
    info = introspection_pb2.RuntimeInfo(name=NAME)
    info.version.version = __version__
    runtime = runc_options_pb2.Options()
    if options.type_url.rpartition("/")[2] == runtime.DESCRIPTOR.full_name:
        runtime.ParseFromString(options.value)
        info.options.CopyFrom(options)
    features = _features(runtime.binary_name or "runc")
    if features:
        info.features.CopyFrom(Any(type_url=FEATURES_URL, value=features))
    sys.stdout.buffer.write(info.SerializeToString())
    return 0


def _features(binary: str) -> bytes:
    """Empty for a runtime that has no such command, such as an old runc."""
    try:
        command = [binary, "features"]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, env=environment(), check=False)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return b"" if done.returncode else done.stdout
