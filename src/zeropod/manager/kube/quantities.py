"""Kubernetes' quantities, such as 100m or 64Mi, to compare them by what they mean."""

import re
from fractions import Fraction

_QUANTITY = re.compile(
    r"([+-]?[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE]([+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)"
)
_FACTORS = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)}
_FACTORS |= {suffix: Fraction(1000**power) for power, suffix in enumerate("kMGTPE", 1)}
_FACTORS |= {f"{suffix}i": Fraction(1024**power) for power, suffix in enumerate("KMGTPE", 1)}


def amount(text: str) -> Fraction:
    """Return the number that is meant. Raises ValueError."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a quantity such as 100m or 64Mi")
    number, exponent, suffix = found.groups()
    factor = Fraction(10) ** int(exponent) if exponent else _FACTORS[suffix or ""]
    return Fraction(number) * factor


def same(one: str, other: str) -> bool:
    """Whether two quantities mean the same."""
    return one == other or amount(one) == amount(other)
