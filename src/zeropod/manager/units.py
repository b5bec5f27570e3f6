"""Times and sizes in readable form, for a node and a cluster."""

MEBIBYTE = 1 << 20


def span(seconds: float) -> str:
    """Return a time span in its two largest units, like kubectl's ages."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"


def duration(milliseconds: float) -> str:
    """Return a duration as Go writes it, but with three digits."""
    return f"{milliseconds:.3g}ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.3g}s"
