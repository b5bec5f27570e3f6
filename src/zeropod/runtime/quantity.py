"""Numbers of bytes as Kubernetes writes them, and as messages show them."""

import math
import re
from fractions import Fraction

_QUANTITY = re.compile(
    r"\+?([0-9]{1,19}(?:\.[0-9]{0,19})?|\.[0-9]{1,19})(?:[eE]([+-]?[0-9]{1,2})|([kMGTPE]|[KMGTPE]i)?)", re.ASCII
)
_FACTORS = {"": 1}
_FACTORS |= {suffix: 1000**power for power, suffix in enumerate("kMGTPE", 1)}
_FACTORS |= {suffix + "i": 1024**power for power, suffix in enumerate("KMGTPE", 1)}
_MOST = 2**63 - 1  # the largest value of a Kubernetes quantity


def quantity(text: str) -> int:
    """Parse a Kubernetes quantity such as 64Mi, 1.5G or 5e6; return bytes, rounded up.

    Raises ValueError for anything else, including negative values and Kubernetes' suffixes for fractions (m and below).
    """
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError("a number of bytes such as 64Mi, 100M or 0")
    number, exponent, suffix = found.groups()
    factor = Fraction(10) ** int(exponent) if exponent else Fraction(_FACTORS[suffix or ""])
    result = math.ceil(Fraction(number) * factor)
    if result > _MOST:
        raise ValueError("a number of bytes such as 64Mi, 100M or 0, below 8Ei")
    return result


def shown(count: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
