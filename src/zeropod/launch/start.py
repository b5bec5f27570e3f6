"""`start`: print the address of the pod's shim for containerd, starting the shim if there is none yet.

containerd waits for it at every container. It binds the socket, hands it to the process that will serve, a fork of the
zygote if possible, and prints the address. The kernel queues containerd's first request until that process is ready.

Modules needed on every call are built into the interpreter: importing pure ones of the standard library, such as os,
json and socket, would take twice as long as everything else. Rare paths import what they need.
"""

import errno
import posix
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket

from zeropod.boot import build_info
from zeropod.launch import zygote_client
from zeropod.launch.flags import Flags
from zeropod.launch.zygote_client import read

try:
    from _blake2 import blake2s
except ImportError:  # a Python whose hashes all come from OpenSSL
    from hashlib import blake2s

TYPE_CHECKING = False  # the name that type checkers know, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

SOCKETS = "/run/containerd/s"
"""The directory of containerd's shim sockets (its `shim.SocketAddress`)."""

SOCKET_FD = 3
"""The descriptor number of the listening socket in `serve`."""

GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
"""Annotations whose value is shared by the containers of one shim; the first that is present counts."""

PROTOCOLS = "/run/zeropod"
"""The file that records the protocol of each containerd on the node."""

OLD_PROTOCOL, NEW_PROTOCOL = 2, 3
"""The protocols of containerd 1.7 and 2.x, which cannot be told apart otherwise: both set MAX_SHIM_VERSION to 2."""


def main(flags: Flags) -> int:
    """Run in the bundle's directory, and print the bootstrap parameters. Returns 1 with the reason on stderr."""
    try:
        address = start(flags, lambda listener: _serve(listener, flags))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"containerd-shim-zeropod-v2: cannot start the shim of {flags.id}: {error}\n")
        return 1
    print(answer(address, protocol(flags.publish_binary)), flush=True)
    return 0


def answer(address: str, protocol: int) -> str:
    """Return the bootstrap parameters as JSON; no value needs quoting."""
    return f'{{"version": {protocol}, "address": "{address}", "protocol": "ttrpc"}}'


def protocol(containerd: str) -> int:
    """Return the newest protocol that this containerd supports; if unknown the old one, which all support.

    Querying the version takes some 40 ms, so the result is recorded, by a key that identifies this very binary.
    """
    try:
        known = _note(containerd)
        try:
            return int(read(known))
        except (FileNotFoundError, ValueError):
            version = _version(containerd)
        _make(PROTOCOLS, 0o700)
        with open(f"{known}.{posix.getpid()}", "w") as file:
            file.write(str(version))
        posix.rename(f"{known}.{posix.getpid()}", known)
    except OSError:
        return OLD_PROTOCOL
    return version


def _note(containerd: str) -> str:
    status = posix.stat(containerd)
    return f"{PROTOCOLS}/protocol-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _version(containerd: str) -> int:
    import re
    import subprocess

    try:
        done = subprocess.run([containerd, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return OLD_PROTOCOL
    found = re.search(r"\bv?(\d+)\.\d+\.\d+", done.stdout)
    return NEW_PROTOCOL if found and int(found[1]) >= 2 else OLD_PROTOCOL


def start(flags: Flags, serve: "Callable[[int], object]") -> str:
    """Return the address of a shim that serves, or will when it is up. Raises OSError, ValueError for an invalid
    config.json.

    `serve` starts one that serves this listening socket, if there is none.
    """
    path = socket_path(flags, group(flags.id))
    listener = socket(AF_UNIX, SOCK_STREAM)
    try:
        if _bind(listener, path):
            try:
                serve(listener.fileno())
            except BaseException:
                posix.unlink(path)
                raise
    finally:
        listener.close()
    address = f"unix://{path}"
    with open("address", "w") as file:
        file.write(address)
    return address


def group(id: str, bundle: str = ".") -> str:
    """Return the shim's group for the container with this bundle. Raises OSError, ValueError for invalid JSON."""
    with open(f"{bundle}/config.json", encoding="utf-8") as file:
        config = _parsed(file.read())
    return group_of(id, config.get("annotations") or {})


def _parsed(text: str) -> "dict[str, Any]":
    """Return a JSON document, parsed by the json module's C parser without importing that module. Raises ValueError."""
    try:
        from _json import make_scanner

        scan = make_scanner(_Scanning)  # type: ignore[arg-type]
    except (ImportError, AttributeError, TypeError):  # a newer Python than the known ones
        from json import loads as scan_all

        config = scan_all(text)
    else:
        try:
            config, _ = scan(text.lstrip(), 0)
        except StopIteration:
            raise ValueError("config.json holds no JSON") from None
    if not isinstance(config, dict):
        raise ValueError("config.json holds no object")
    return config


class _Scanning:
    """The parser's settings, with the defaults of json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: "dict[str, str]" = {}


def group_of(id: str, annotations: "Mapping[str, str]") -> str:
    """Return the shim's group for a container with these annotations."""
    return next((annotations[key] for key in GROUPS if annotations.get(key)), id)


def socket_path(flags: Flags, group: str) -> str:
    # A path has room for 107 bytes, an id alone may have 76.
    name = "/".join(("zeropod", flags.address, flags.namespace, group))
    return f"{SOCKETS}/{blake2s(name.encode()).hexdigest()}"


def _bind(listener: socket, path: str) -> bool:
    """Bind and listen; return False if another shim of the group listens there already."""
    _make(SOCKETS, 0o711)
    for attempt in range(2):
        try:
            zygote_client.bind(listener, path)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt:
                raise
            if answers(path):
                return False
            posix.unlink(path)  # left by a shim that was killed
    return True


def _make(directory: str, mode: int) -> None:
    try:
        posix.mkdir(directory, mode)
    except FileExistsError:
        pass
    except FileNotFoundError:
        import os

        os.makedirs(directory, mode, exist_ok=True)


def answers(path: str) -> bool:
    """Return whether a shim listens there."""
    probe = socket(AF_UNIX, SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _serve(listener: int, flags: Flags) -> None:
    """Start a process that serves this socket. Raises OSError."""
    oom_score = zygote_client.oom_score(posix.getppid())
    if build_info.TREE is None:  # a checkout: a zygote may have imported older code
        _spawn(listener, flags, "serve", oom_score)
        return
    arguments = [word.encode(errors="surrogateescape") for word in (sys.argv[0], *flags.arguments)]
    order = zygote_client.Order(oom_score, posix.getcwdb(), arguments, posix.environ)
    try:
        zygote_client.ask(build_info.TREE, listener, order, lambda zygotes: _spawn(zygotes, flags, "zygote", oom_score))
    except zygote_client.ZygoteError as reason:
        _spawn(listener, flags, "serve", oom_score)
        _say(f"this shim is started as a program, which takes 25 MB more, because no zygote could fork it: {reason}")


def _spawn(listener: int, flags: Flags, action: str, oom_score: int) -> None:
    """Start another action of this program with the socket, in a process group of its own."""
    own = list(flags.arguments)
    program = sys.orig_argv[: len(sys.orig_argv) - len(own)]
    arguments = [*program, *(own[: own.index("start")] if action == "serve" else ()), action]
    # First out of the way of the numbers to which they are duplicated.
    handed = posix.dup(listener)
    actions = [
        (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0),
        (posix.POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_WRONLY, 0),
        (posix.POSIX_SPAWN_OPEN, 2, "/dev/null", posix.O_WRONLY, 0),
        (posix.POSIX_SPAWN_DUP2, handed, SOCKET_FD),
    ]
    try:
        pid = posix.posix_spawn(sys.executable, arguments, posix.environ, file_actions=actions, setpgroup=0)
    finally:
        posix.close(handed)
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(oom_score))
    except OSError as error:
        # Lowering it needs CAP_SYS_RESOURCE, which containerd may not have; the shim works without.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT):
            raise


def _say(text: str) -> None:
    """Write one line to containerd's log."""
    import logging

    from zeropod.launch import logfile

    try:
        logfile.configure("log", debug=False)
    except OSError:
        return
    logging.getLogger(__name__).warning(text)
