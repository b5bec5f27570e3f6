"""The sk_lookup program of a pod: records new connections and possible probers, and steers new connections.

Owns loading lookup.bpf (compiled from bpf/lookup.c) into one network namespace, and the meaning of its maps. Nothing is
pinned: program, maps and link end with this process, and connections then reach their listeners directly.
"""

import itertools
import json
import os
import pkgutil
import socket
import struct
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Self

from zeropod.kernel import bpf, task_name

_PORT = struct.Struct("=H")
_SLOT = struct.Struct("=I")
_SOCKET = struct.Struct("=I")
_ACTIVITY = struct.Struct("=QQQQ")
_FLOW = struct.Struct("=16s2sH")
_SAID = struct.Struct("=Q")
_NAME = struct.Struct("=16s")
_PRESENT, _PROBES, _FORWARDS, _RECEIVES = b"\1", b"\1", b"\2", b"\3"
_NAMED, _NODES = 1 << 16, 1 << 17
_MAPPED = bytes(10) + b"\xff\xff"
_LOAD_64 = struct.Struct("=BBhi")
_PSEUDO_MAP_FD = 1
_ASKS_FOR_A_NAME = "bpf_get_current_comm"
"""The verifier's complaint on kernels on which such a program may not call it."""
# Not GPL only; the helpers that it calls ask for a licence the kernel calls compatible.
_LICENCE = "Dual MIT/GPL"
_PROGRAM = "zeropod_lookup"


class LookupUnavailable(Exception):  # noqa: N818 - a state of the node, not a fault
    """The kernel does not allow the program; the argument says why.

    Without it, activity is what sock_diag shows, and connections cannot be steered.
    """


@dataclass(frozen=True, slots=True)
class Activity:
    """New connections to one port: the time of the last (CLOCK_MONOTONIC, ns), and their number."""

    last_ns: int
    connections: int


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection, by its other end (address, port) and its local port."""

    remote: tuple[str, int]
    port: int


class FlowOrigin(IntEnum):
    """The origin of a connection from within the pod; the activator tags its own connections."""

    CLIENT = 0
    """A client's: counts like one from outside."""
    PROBE = 1
    """A probe's: does not count."""
    FORWARDED = 2
    """Set by the program: made on behalf of a client outside of the pod (kubectl port-forward); counts."""


class Lookup:
    """The program in one network namespace. Create it with attach(), end it with close()."""

    def __init__(self, maps: dict[str, bpf.Map], owned: ExitStack) -> None:
        self._maps = maps
        self._owned = owned
        self._slots: dict[tuple[str, int], int] = {}
        """Slots by the map that refers to them, and the port."""

    @classmethod
    def attach(cls, netns: str | os.PathLike[str]) -> Self:
        """Load the program, and attach it to a network namespace; takes about a millisecond.

        Raises LookupUnavailable if the kernel refuses (no bpf(2), no right to it), OSError if the namespace does not
        exist.
        """
        if sys.byteorder != "little":
            raise LookupUnavailable("the sk_lookup program is compiled for little-endian machines")
        with ExitStack() as undo:
            target = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, target)
            with ExitStack() as owned:
                try:
                    maps = _load(target, owned)
                except OSError as error:
                    raise LookupUnavailable(f"sk_lookup in {os.fspath(netns)}: {error}") from error
                return cls(maps, owned.pop_all())

    def close(self) -> None:
        """Detach the program. Established connections are not affected."""
        self._owned.close()

    def activity(self, *, own: bool = True) -> dict[int, Activity]:
        """Return the activity by local port since attach(); with `own`, including connections from within the pod.

        Ports without a listener are included. The last 256 are kept: under a port scan a port may disappear, and count
        from 0 again. Connections that may be a prober's are only reported by flow().
        """
        seen = {}
        for port, activity in self._maps["last_seen"].items():
            last, connections, own_last, own_connections = _ACTIVITY.unpack(activity)
            if own:
                last, connections = max(last, own_last), connections + own_connections
            if connections:
                seen[_PORT.unpack(port)[0]] = Activity(last, connections)
        return seen

    def steer(self, port: int, listeners: Iterable[socket.socket]) -> None:
        """Steer new connections to `port` to these listeners, whatever else listens there.

        At most one listener per address family; one for IPv6 that is not IPV6_V6ONLY also takes IPv4. They must be of
        the pod's network namespace and listening. The connections show the port that the client asked for. A family
        without a listener is not steered.
        """
        self._point("steer", port, listeners)

    def unsteer(self, port: int) -> None:
        """Stop steering new connections to `port`. Does nothing if they are not steered."""
        self._unpoint("steer", port)

    def inspect(self, port: int, listeners: Iterable[socket.socket], *, named: bool = False) -> None:
        """Steer only connections that may be a prober's to these listeners, otherwise like steer().

        `named`: without those received by tasks that receive packets for others.
        """
        self._point("inspect", port, listeners, _NAMED if named else 0)

    def inspect_nodes(self, port: int, *, on: bool) -> None:
        """Set whether all connections from the node's own addresses may be a prober's, at a port with inspect()."""
        if (slot := self._slots.get(("inspect", port))) is not None:
            self._maps["inspect"].set(_PORT.pack(port), _SLOT.pack(slot | (_NODES if on else 0)))

    def uninspect(self, port: int) -> None:
        self._unpoint("inspect", port)

    def set_tasks(
        self, probers: Collection[str], receivers: Collection[str] = (), forwarders: Collection[str] = ()
    ) -> None:
        """Set the names of tasks that may be probers, that may receive packets of probers, and that connect within the
        pod for clients outside.

        The kernel stores 15 bytes of a task's name. Of a name with a slash, the program compares the part before it.
        """
        roles = ((forwarders, _FORWARDS), (receivers, _RECEIVES), (probers, _PROBES))
        self._replace("tasks", {_name(name): role for names, role in roles for name in names})

    def set_node_addresses(self, addresses: Collection[str]) -> None:
        """Set the addresses from which probers connect. Raises OSError if they are more than 512, and then has set only
        a part."""
        self._replace("node_addresses", {_packed(address): _PRESENT for address in addresses})

    def flow(self, flow: Flow) -> int | None:
        """Return when a flow that may be a probe arrived, or its FlowOrigin; None if it is not known."""
        said = self._maps["flows"].get(_key(flow))
        return None if said is None else int(_SAID.unpack(said)[0])

    def tag_flow(self, flow: Flow, said: FlowOrigin) -> None:
        """Set the origin of a connection that is about to be made from this address within the pod."""
        self._maps["flows"].set(_key(flow), _SAID.pack(said))

    def untag_flow(self, flow: Flow) -> None:
        """Undo tag_flow(), for the next connection from this address."""
        self._maps["flows"].delete(_key(flow))

    def _point(self, name: str, port: int, listeners: Iterable[socket.socket], flags: int = 0) -> None:
        self._unpoint(name, port)
        slot = next(slot for slot in itertools.count() if slot not in self._slots.values())
        by_version: dict[int, socket.socket] = {}
        for listener in sorted(listeners, key=lambda listener: listener.family == socket.AF_INET):
            if listener.family == socket.AF_INET:
                by_version[0] = listener
            else:
                by_version[1] = listener
                if not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                    by_version[0] = listener
        self._slots[name, port] = slot
        for version, listener in by_version.items():
            self._maps["activators"].set(_SLOT.pack(2 * slot + version), _SOCKET.pack(listener.fileno()))
        # Last, so that no connection finds an incomplete slot.
        self._maps[name].set(_PORT.pack(port), _SLOT.pack(slot | flags))

    def _unpoint(self, name: str, port: int) -> None:
        if (slot := self._slots.pop((name, port), None)) is None:
            return
        self._maps[name].delete(_PORT.pack(port))
        for version in (0, 1):
            self._maps["activators"].delete(_SLOT.pack(2 * slot + version))

    def _replace(self, name: str, wanted: Mapping[bytes, bytes]) -> None:
        there = dict(self._maps[name].items())
        for key in there.keys() - wanted.keys():
            self._maps[name].delete(key)
        for key, value in sorted(wanted.items()):
            if there.get(key) != value:
                self._maps[name].set(key, value)


def _name(task: str) -> bytes:
    return _NAME.pack(task.encode()[:15])


def _packed(address: str) -> bytes:
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])  # sockets name a scope that packets lack
    return _MAPPED + socket.inet_pton(socket.AF_INET, address)


def _key(flow: Flow) -> bytes:
    return _FLOW.pack(_packed(flow.remote[0]), flow.remote[1].to_bytes(2, "big"), flow.port)


@cache
def compiled() -> Mapping[str, Any]:
    """Return the contents of lookup.bpf; read once, preferably before a process forks."""
    content: Mapping[str, Any] = json.loads(pkgutil.get_data(__package__, "lookup.bpf") or b"")
    return content


def _load(target: int, owned: ExitStack) -> dict[str, bpf.Map]:
    container = compiled()
    maps = {
        entry["name"]: owned.enter_context(
            bpf.Map(
                bpf.MapType[entry["type"].upper()],
                entry["key_size"],
                entry["value_size"],
                entry["max_entries"],
                entry["name"],
            )
        )
        for entry in container["maps"]
    }
    code = bytearray.fromhex("".join(container["instructions"]))
    for index, name in container["relocations"]:
        operation, registers, offset, _ = _LOAD_64.unpack_from(code, 8 * index)
        registers = registers & 0x0F | _PSEUDO_MAP_FD << 4
        _LOAD_64.pack_into(code, 8 * index, operation, registers, offset, maps[name].fd)
    try:
        program = bpf.Program(bytes(code), _LICENCE, _PROGRAM)
    except OSError as error:
        if _ASKS_FOR_A_NAME not in str(error):
            raise
        program = bpf.Program(task_name.by_reading(bytes(code)), _LICENCE, _PROGRAM)
    # The link keeps the program: its own descriptor is not needed any longer.
    with program:
        owned.enter_context(bpf.Link(program, target))
    return maps
