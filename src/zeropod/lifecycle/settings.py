"""The settings of a container: their names, accepted texts and built-in defaults.

All containers of a pod have the same annotations; `container-names` and `ports-map` select containers by name
(Kubernetes) or id (ctr). `defaults` decides between pod, namespace and node.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from zeropod.activator import probe_sources
from zeropod.runtime.memory import choice
from zeropod.runtime.memory.backend import Kind
from zeropod.runtime.quantity import quantity

PREFIX = "zeropod.ctrox.dev/"

_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "\u00b5s": Fraction(1, 10**6),  # the micro sign; Go takes the Greek letter, too
    "\u03bcs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_DURATION = re.compile(r"([0-9]{1,19}(?:\.[0-9]{0,19})?|\.[0-9]{1,19})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,75}")
_LONGEST = Fraction(2**63 - 1, 10**9)  # in Go, a duration is an int64 of nanoseconds
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


SCALEDOWN = 60.0
"""Default of `scaledown-duration`, in seconds."""

STANDBY_MAX_RESIDENT = 64 << 20
"""Default of `standby-max-resident`, in bytes."""


PROBE_BUFFER = 1024
"""Default of `probe-buffer-size`, in bytes."""

MOST_PROBE_BUFFER = 16 << 10
"""Largest `probe-buffer-size`, in bytes: the most that HTTP/2 carries in one frame by default."""


class SettingsError(ValueError):
    """A setting has an invalid value; the text names the value and a valid form."""


def duration(text: str) -> float:
    """Return the seconds of a Go duration such as 1m30s, 500ms or 0. Raises ValueError for any other text, and for
    negative ones."""
    if text == "0":
        return 0.0
    total, end = Fraction(0), 0
    for part in _DURATION.finditer(text):
        if part.start() != end:
            break
        total += Fraction(part[1]) * _UNITS[part[2]]
        end = part.end()
    if not text or end != len(text) or total > _LONGEST:
        raise ValueError("a duration such as 30s, 5m or 1h30m")
    return float(total)


def probe_buffer(text: str) -> int:
    size = quantity(text)
    if size > MOST_PROBE_BUFFER:
        raise ValueError("a number of bytes such as 2Ki, 16Ki at the most")
    return size


def boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def memory(text: str) -> str:
    """Return the name of a backend, or auto. Raises ValueError for anything else."""
    if text not in (choice.AUTO, *Kind):
        raise ValueError("auto, swap, store or resident")
    return text


def container_names(text: str) -> frozenset[str]:
    """Return names of containers. Raises ValueError where one cannot be a container's."""
    found = names(text)
    if not all(_CONTAINER.fullmatch(name) for name in found):
        raise ValueError("names of containers with commas between them, such as web,cache")
    return found


def names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def ports_map(text: str) -> dict[str, frozenset[int]]:
    """Return the port numbers by container name of a text such as `nginx=80,81;sidecar=8080`. Raises ValueError."""
    result: dict[str, frozenset[int]] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, ports = entry.partition("=")
        numbers = [port.strip() for port in ports.split(",")]
        if not separator or not name.strip() or not all(_is_port(port) for port in numbers):
            raise ValueError("container=port,port;container=port with ports from 1 to 65535")
        result[name.strip()] = frozenset(map(int, numbers))
    return result


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one container, with the documented defaults."""

    scaledown: float = SCALEDOWN
    """Seconds without TCP activity after which the container sleeps; 0 means never."""
    selected: bool = True
    """Whether `container-names` selects this container."""
    ports: frozenset[int] = frozenset()
    """The ports whose connections count and wake; empty for all ports on which it listens."""
    pre_dump: bool = False
    """Dump most of the memory before the freeze, where the kernel tracks changes."""
    disable_checkpointing: bool = False
    """Instead of checkpointing it, end it, and start it anew on the next connection."""
    connect_timeout: float = 0.0
    """Seconds that a proxied connection waits for the application to listen; 0 means no limit."""
    proxy_timeout: float = 0.0
    """Seconds without a byte after which a proxied connection is closed; 0 means no limit."""
    standby: bool = True
    """Sleep in STANDBY; otherwise on disk only."""
    standby_duration: float = 0.0
    """Seconds in STANDBY after which it goes COLD; 0 means never."""
    standby_memory: str = choice.AUTO
    """Where the memory of a container in standby goes: auto, swap, store or resident."""
    standby_max_resident: int = STANDBY_MAX_RESIDENT
    """It goes COLD if more bytes of memory than this stay resident."""
    tcp_established: bool = True
    """Keep established connections through sleep; otherwise they are closed when it falls asleep."""
    wake_on_stop: bool = True
    """A stop signal wakes the container from COLD to shut down in order; otherwise its exit is reported at once."""
    disable_probe_detection: bool = False
    """Treat health probes as traffic: they reach the application, wake it and keep it awake."""
    probe_buffer_size: int = PROBE_BUFFER
    """Largest probe request, in bytes, that is answered while the container sleeps."""
    probe_processes: frozenset[str] = probe_sources.NAMES
    """The names of the processes on the node whose connections may be probes."""
    io_uring: bool = False
    """No effect any more: a container that uses io_uring sleeps in STANDBY. Accepted for existing pods."""
    localhost_traffic: bool | None = None
    """Whether connections from within the pod count as activity; None: only for a container without a pod."""
    dry_run: bool = False
    """Only count when it would sleep and wake."""
    migrate: bool = False
    """Move it asleep when its pod leaves the node, so that it comes back asleep elsewhere."""
    live_migrate: bool = False
    """Move it awake, too."""
    keep_on_restart: bool = False
    """Have it come back with its memory after a restart of the node."""
    disable_migrate_data: bool = False
    """Leave behind what it has written to its root file system."""

    @property
    def may_move(self) -> bool:
        """Whether what it leaves on disk may have to come back in another container: nothing of it stays here then."""
        return self.migrate or self.live_migrate or self.keep_on_restart


CONVERTERS: Mapping[str, Callable[[str], Any]] = {
    "scaledown-duration": duration,
    "container-names": names,
    "ports-map": ports_map,
    "pre-dump": boolean,
    "disable-checkpointing": boolean,
    "connect-timeout": duration,
    "proxy-timeout": duration,
    "standby": boolean,
    "standby-duration": duration,
    "standby-memory": memory,
    "standby-max-resident": quantity,
    "tcp-established": boolean,
    "wake-on-stop": boolean,
    "disable-probe-detection": boolean,
    "probe-buffer-size": probe_buffer,
    "probe-processes": names,
    "io-uring": boolean,
    "localhost-traffic": boolean,
    "dry-run": boolean,
    "migrate": container_names,
    "live-migrate": container_names,
    "keep-on-restart": boolean,
    "disable-migrate-data": boolean,
}
"""The converter of each setting's text; raises ValueError with a description of valid texts."""

KNOWN = frozenset(CONVERTERS)


def convert(key: str, text: str) -> Any:
    """Return the value of a setting's text. Raises SettingsError, which names the text but not the setting."""
    try:
        return CONVERTERS[key](text.strip())
    except ValueError as error:
        raise SettingsError(f"{text!r} is not {error}") from None


def settings_of(values: Mapping[str, Any], container: str) -> Settings:
    """Return the settings of the container with this name. `values` has only those that are set."""
    rest = dict(values)
    meant = rest.pop("container-names", ())
    ports = rest.pop("ports-map", {})
    migrates, migrates_live = rest.pop("migrate", ()), rest.pop("live-migrate", ())
    return Settings(
        scaledown=rest.pop("scaledown-duration", SCALEDOWN),
        selected=not meant or container in meant,
        ports=ports.get(container, frozenset()),
        migrate=container in migrates,
        live_migrate=container in migrates_live,
        **{key.replace("-", "_"): value for key, value in rest.items()},
    )


FROM_NAMESPACE = "from-namespace"
"""The annotation of a pod that lists, with commas, the annotations that come from its namespace."""

OTHERS = frozenset({FROM_NAMESPACE, "wanted", "cpu-requests", "memory-requests"})
"""Annotations with the prefix that are not settings: one lists inherited annotations, the others belong to the
manager."""


def unknown(annotations: Mapping[str, str]) -> list[str]:
    """Return annotations with the prefix that this version does not know: misspelt, or of a newer version."""
    known = KNOWN | OTHERS
    return sorted(key for key in annotations if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in known)
