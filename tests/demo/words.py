"""How the demo writes numbers, and the medians it closes with."""

import statistics
from collections.abc import Sequence


def milliseconds(seconds: float) -> str:
    """0.08 ms, 8.3 ms, 83 ms."""
    return f"{_number(seconds * 1000)} ms"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def size(count: float) -> str:
    """Bytes in decimal megabytes, as sizes of images are written."""
    return f"{count / 1e6:.1f} MB" if count else "0 MB"


def processes(count: int, kind: str = "") -> str:
    """`1 process`, `3 frozen processes`."""
    return f"{count} {kind}{' ' if kind else ''}process{'' if count == 1 else 'es'}"


def spread(seconds: Sequence[float]) -> str:
    """`83 ms (79 … 91)`: median, smallest, largest; of a single one just that."""
    if len(seconds) < 2:
        return median(seconds)
    return f"{median(seconds)} ({_number(min(seconds) * 1000)} … {_number(max(seconds) * 1000)})"


def median(seconds: Sequence[float]) -> str:
    return milliseconds(statistics.median(seconds)) if seconds else "-"


def clock(seconds: float) -> str:
    """`00:03.412`: minutes, seconds, milliseconds."""
    minutes, rest = divmod(max(seconds, 0.0), 60)
    return f"{int(minutes):02}:{rest:06.3f}"
