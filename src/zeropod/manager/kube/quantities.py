"""Kubernetes' quantities, such as 100m or 64Mi, compared by value.

In integer billionths, Kubernetes' resolution: importing `fractions` or `decimal` would take half a megabyte.
"""

import re
from functools import lru_cache

_QUANTITY = re.compile(r"([+-]?)([0-9]{1,30})?(?:\.([0-9]{0,30}))?(?:[eE]([+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
_FACTORS = {"n": 1, "u": 10**3, "m": 10**6, "": 10**9}
_FACTORS |= {suffix: 10**9 * 1000**power for power, suffix in enumerate("kMGTPE", 1)}
_FACTORS |= {f"{suffix}i": 10**9 * 1024**power for power, suffix in enumerate("KMGTPE", 1)}


@lru_cache(256)
def amount(text: str) -> int:
    """Return the value in billionths, rounded up like Kubernetes. Raises ValueError."""
    found = _QUANTITY.fullmatch(text)
    sign, whole, fraction, exponent, suffix = found.groups("") if found else ("",) * 5
    if not whole and not fraction:
        raise ValueError(f"{text!r} is not a quantity such as 100m or 64Mi")
    power = int(exponent or 0) - len(fraction)
    number = int(f"{sign}{whole}{fraction}") * _FACTORS[suffix]
    return -(-number * _ten(power) // _ten(-power))


def _ten(power: int) -> int:
    return int(10 ** max(power, 0))


def same(one: str, other: str) -> bool:
    """Whether two quantities mean the same."""
    return one == other or amount(one) == amount(other)
