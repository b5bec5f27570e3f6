"""How much slower the node is than the machine that these tests were written on, for whatever waits for something.

One number for all: where an emulator runs the node, every limit of time and every scale-down duration is that many
times longer. What is asserted does not depend on it.
"""

import os
import re

VARIABLE = "ZEROPOD_TEST_PATIENCE"
FACTOR = float(os.environ.get(VARIABLE, "1"))

_DURATION = re.compile(r"([0-9]+)(ms|s|m)")


def patient(seconds: float) -> float:
    """A limit of time as it is on this node."""
    return seconds * FACTOR


def patient_duration(text: str) -> str:
    """A duration of an annotation, such as 300ms, as it is on this node; what has another form stays as it is."""
    found = _DURATION.fullmatch(text)
    if FACTOR == 1 or found is None:
        return text
    number, unit = found.groups()
    return f"{round(int(number) * FACTOR)}{unit}"
