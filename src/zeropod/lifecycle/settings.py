"""What a pod's annotations ask of us: parsed once, at the container's creation, which a bad value fails.

Annotations are the same for all containers of a pod; `container-names` and `ports-map` tell which of them are meant,
by container name (Kubernetes) or id (ctr).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from zeropod.activator import probe_sources
from zeropod.runtime.memory import choice
from zeropod.runtime.memory.backend import Kind
from zeropod.runtime.quantity import quantity

PREFIX = "zeropod.ctrox.dev/"

_Value = TypeVar("_Value")

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
_LONGEST = Fraction(2**63 - 1, 10**9)  # in Go, a duration is an int64 of nanoseconds
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


SCALEDOWN = 60.0
"""Seconds without activity after which a container sleeps that says nothing about it."""

STANDBY_MAX_RESIDENT = 64 << 20
"""Bytes of memory that a container in standby may keep, if it says nothing about it."""


PROBE_BUFFER = 1024
"""Bytes of a request that are looked at to find out whether it is a probe's."""

MOST_PROBE_BUFFER = 16 << 10
"""What HTTP/2 carries in one frame."""


class SettingsError(ValueError):
    """An annotation has a value that means nothing; the text names both and says what would do."""


def duration(text: str) -> float:
    """Seconds of a Go duration such as 1m30s, 500ms or 0. Raises ValueError for anything else, negative ones too."""
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


def names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def ports_map(text: str) -> dict[str, frozenset[int]]:
    """`nginx=80,81;sidecar=8080` as port numbers by container name."""
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
    """The settings of one container; every default is what the documentation says."""

    scaledown: float = SCALEDOWN
    """Seconds without TCP activity after which the container sleeps; 0 is never."""
    selected: bool = True
    """Whether the pod wants this container to sleep at all."""
    ports: frozenset[int] = frozenset()
    """The ports whose connections count and wake; empty: those that it is found to listen on."""
    pre_dump: bool = False
    """Dump most of the memory before the freeze, where the kernel tracks changes."""
    disable_checkpointing: bool = False
    """Kill it instead of checkpointing it, and start it afresh on the first connection."""
    connect_timeout: float = 0.0
    """Seconds that a proxied connection waits for the application to listen; 0 is without limit."""
    proxy_timeout: float = 0.0
    """Seconds without a byte after which a proxied connection is closed; 0 is without limit."""
    standby: bool = True
    """Keep the sleeping process ready in a frozen cgroup, which a thaw wakes; otherwise it sleeps on disk alone."""
    standby_duration: float = 0.0
    """Seconds in standby after which the process ends and sleeps on disk alone; 0 is to stay in standby."""
    standby_memory: str = choice.AUTO
    """Where the memory of a container in standby goes: auto, swap, store or resident."""
    standby_max_resident: int = STANDBY_MAX_RESIDENT
    """Bytes of memory beyond which standby is not worth it; 0 is that nothing at all may stay resident."""
    tcp_established: bool = True
    """Keep established connections through sleep; otherwise they are closed when it begins."""
    wake_on_stop: bool = True
    """Wake the container from disk to let it shut down in order; otherwise it is gone at once."""
    disable_probe_detection: bool = False
    """Take health probes for traffic: they reach the application, wake it and keep it awake."""
    probe_buffer_size: int = PROBE_BUFFER
    """Bytes of a request beyond which it cannot be answered as a probe while the container sleeps."""
    probe_processes: frozenset[str] = probe_sources.NAMES
    """The names of the processes on the node whose connections may be probes."""
    io_uring: bool = False
    """Without effect: io_uring is the container's, which sleeps in standby while it uses it. Kept for older pods."""
    localhost_traffic: bool | None = None
    """Connections from within the pod count; None: only where there are no others, without a pod."""
    dry_run: bool = False
    """Only count when it would sleep and wake."""


def parse(annotations: Mapping[str, str], container: str) -> Settings:
    """The settings of the container with this name. Raises SettingsError."""

    def value(key: str, convert: Callable[[str], _Value], default: _Value) -> _Value:
        text = annotations.get(PREFIX + key)
        if text is None:
            return default
        try:
            return convert(text.strip())
        except ValueError as error:
            raise SettingsError(f"annotation {PREFIX}{key}: {text!r} is not {error}") from None

    selected: frozenset[str] = value("container-names", names, frozenset())
    ports: dict[str, frozenset[int]] = value("ports-map", ports_map, {})
    return Settings(
        scaledown=value("scaledown-duration", duration, SCALEDOWN),
        selected=not selected or container in selected,
        ports=ports.get(container, frozenset()),
        pre_dump=value("pre-dump", boolean, False),
        disable_checkpointing=value("disable-checkpointing", boolean, False),
        connect_timeout=value("connect-timeout", duration, 0.0),
        proxy_timeout=value("proxy-timeout", duration, 0.0),
        standby=value("standby", boolean, True),
        standby_duration=value("standby-duration", duration, 0.0),
        standby_memory=value("standby-memory", memory, choice.AUTO),
        standby_max_resident=value("standby-max-resident", quantity, STANDBY_MAX_RESIDENT),
        tcp_established=value("tcp-established", boolean, True),
        wake_on_stop=value("wake-on-stop", boolean, True),
        disable_probe_detection=value("disable-probe-detection", boolean, False),
        probe_buffer_size=value("probe-buffer-size", probe_buffer, PROBE_BUFFER),
        probe_processes=value("probe-processes", names, probe_sources.NAMES),
        io_uring=value("io-uring", boolean, False),
        localhost_traffic=value("localhost-traffic", boolean, None),
        dry_run=value("dry-run", boolean, False),
    )


KNOWN = frozenset(
    {
        "scaledown-duration",
        "container-names",
        "ports-map",
        "pre-dump",
        "disable-checkpointing",
        "connect-timeout",
        "proxy-timeout",
        "standby",
        "standby-duration",
        "standby-max-resident",
        "standby-memory",
        "tcp-established",
        "wake-on-stop",
        "disable-probe-detection",
        "probe-buffer-size",
        "probe-processes",
        "io-uring",
        "localhost-traffic",
        "dry-run",
    }
)


MANAGERS = frozenset({"wanted", "cpu-requests", "memory-requests"})
"""Annotations that the manager reads or writes, in Kubernetes; they say nothing to a shim."""


def unknown(annotations: Mapping[str, str]) -> list[str]:
    """Annotations of ours that this version does not know: a slip of the pen, or a newer version's."""
    known = KNOWN | MANAGERS
    return sorted(key for key in annotations if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in known)
