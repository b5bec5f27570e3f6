"""How long a pod that is being deleted may wait before its containers are ended in order. Pure.

Kubernetes kills it at its deletionTimestamp, which contains the grace period. What is not decided some time before
that is given up, so that there is time for the container to be restored where it was, to get its signal and to end.
"""

LEAST, MOST = 1.0, 10.0
"""Seconds of the reserve; in between it is a share of the grace period."""
SHARE = 0.3


def reserve(grace: float) -> float:
    """Return the seconds that are kept for a clean end."""
    return min(max(grace * SHARE, LEAST), MOST)


def decided_by(deadline: float, grace: float) -> float:
    """Return when it has to be decided whether a pod moves."""
    return deadline - reserve(grace)
