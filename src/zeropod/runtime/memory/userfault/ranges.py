"""Arithmetic on address ranges: sorted lists of (start, end) that do not touch or overlap.

Pure functions of a single pass each: a process has thousands of ranges, and the container waits.
"""

from collections.abc import Iterable, Iterator, Sequence

from zeropod.kernel.userfault import PAGE

Range = tuple[int, int]
"""(start, end)."""


def total(ranges: Iterable[Range]) -> int:
    """Return the number of bytes in all ranges."""
    return sum(end - start for start, end in ranges)


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Merge ranges that touch or overlap; the input must be sorted by start."""
    result: list[Range] = []
    for start, end in ranges:
        if result and start <= result[-1][1]:
            if end > result[-1][1]:
                result[-1] = (result[-1][0], end)
        elif start < end:
            result.append((start, end))
    return result


def subtract(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """Return the addresses in `ranges` that are not in `others`."""
    result: list[Range] = []
    at = 0
    for start, end in ranges:
        while at < len(others) and others[at][1] <= start:
            at += 1
        place = at
        while place < len(others) and others[place][0] < end:
            low, high = others[place]
            if start < low:
                result.append((start, low))
            start = max(start, high)
            place += 1
        if start < end:
            result.append((start, end))
    return result


def intersect(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """Return the addresses in both."""
    result: list[Range] = []
    one = other = 0
    while one < len(ranges) and other < len(others):
        low = max(ranges[one][0], others[other][0])
        high = min(ranges[one][1], others[other][1])
        if low < high:
            result.append((low, high))
        if ranges[one][1] < others[other][1]:
            one += 1
        else:
            other += 1
    return result


def pieces(wanted: Sequence[Range], kept: Sequence[Range], bounds: Sequence[Range], size: int) -> Iterator[list[Range]]:
    """Yield `wanted` in groups of at most `size` bytes, so that nothing of `kept` lies between the first and the last.

    Addresses in neither may lie in between, which keeps groups few. No group crosses the end of one of the `bounds`.
    """
    at = 0
    for low, high in subtract(bounds, kept):
        while at < len(wanted) and wanted[at][1] <= low:
            at += 1
        group: list[Range] = []
        room = size
        place = at
        while place < len(wanted) and wanted[place][0] < high:
            start, stop = max(low, wanted[place][0]), min(high, wanted[place][1])
            place += 1
            while start < stop:
                if not room:
                    yield group
                    group, room = [], size
                end = min(stop, start + room)
                group.append((start, end))
                room -= end - start
                start = end
        if group:
            yield group


def together(groups: Iterable[list[Range]], limit: int, count: int) -> Iterator[list[list[Range]]]:
    """Yield lists of consecutive groups with at most `limit` bytes and `count` groups each."""
    some: list[list[Range]] = []
    size = 0
    for group in groups:
        if some and (size + total(group) > limit or len(some) == count):
            yield some
            some, size = [], 0
        some.append(group)
        size += total(group)
    if some:
        yield some


def divided(group: Sequence[Range], length: int) -> tuple[list[Range], list[Range]]:
    """Split the ranges after their first `length` bytes; return the rest, then those bytes."""
    done: list[Range] = []
    rest: list[Range] = []
    for start, end in group:
        part = min(end, start + length)
        length -= part - start
        if start < part:
            done.append((start, part))
        if part < end:
            rest.append((part, end))
    return rest, done


def equal_pages(one: bytes, other: bytes) -> list[Range]:
    """Return the offsets of pages with equal content, as ranges."""
    if one == other:
        return [(0, len(one))]
    size = min(len(one), len(other))
    return [(at, at + PAGE) for at in range(0, size, PAGE) if one[at : at + PAGE] == other[at : at + PAGE]]
