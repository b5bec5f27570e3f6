"""The runtime options in containerd's configuration, in both of their forms.

`ctr` sends runc's own message, and the CRI plugin does so for runc's runtime type. For any other type it sends the
runtime's section `options` as TOML (containerd's `internal/cri/config`, `GenerateRuntimeOptions`), which has
`SystemdCgroup = true` on a node whose kubelet uses the systemd driver.
"""

import logging
import tomllib
from pathlib import Path

from google.protobuf.any_pb2 import Any

from zeropod.rpc.messages import runc_options_pb2, runtimeoptions_pb2
from zeropod.rpc.payload import unpack
from zeropod.rpc.status import Code, RpcError

log = logging.getLogger(__name__)

_NAMES = {field.name.replace("_", ""): field.name for field in runc_options_pb2.Options.DESCRIPTOR.fields}
"""Fields by their lower-case names in TOML, which are Go's: `SystemdCgroup` for `systemd_cgroup`."""


def read(any: Any) -> runc_options_pb2.Options:
    """Return the options. Raises RpcError if they cannot be read."""
    if (options := unpack(any, runc_options_pb2.Options)) is not None:
        return options
    if (generic := unpack(any, runtimeoptions_pb2.Options)) is not None:
        return from_toml(generic.config_body or _file(generic.config_path))
    return runc_options_pb2.Options()


def from_toml(text: bytes) -> runc_options_pb2.Options:
    """Return the options from TOML. Raises RpcError for invalid TOML or an invalid value; logs unknown options."""
    options = runc_options_pb2.Options()
    try:
        found = tomllib.loads(text.decode())
    except ValueError as error:  # of the text encoding, too
        raise _refused(f"they are no TOML: {error}") from error
    for key, value in found.items():
        name = _NAMES.get(key.replace("_", "").lower())
        if name is None:
            log.warning("the runtime option %s is unknown to this version and has no effect", key)
            continue
        try:
            setattr(options, name, value)
        except (TypeError, ValueError) as error:
            raise _refused(f"{key} cannot be {value!r}") from error
    return options


def _file(path: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _refused(f"{path}: {error.strerror}") from error


def _refused(why: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"the runtime's options in containerd's configuration cannot be read: {why}")
