"""What a container needs of a node that is to restore it, against what the node has. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from zeropod.rpc.messages.node_pb2 import Needs

Object = dict[str, Any]

_KERNEL = re.compile(r"(\d+)\.(\d+)")
_NUMBERS = re.compile(r"\d+")
MOST_FEATURES = 512
_SHOWN = 5
"""Features that a sentence names."""


def obstacle(needs: Needs, has: Needs) -> str:
    """Return why a node that has this cannot restore what needs that; empty if it can.

    A thing that either side does not tell is no obstacle: CRIU finds out, while the source can still come back.
    """
    if needs.architecture and has.architecture and needs.architecture != has.architecture:
        return f"it runs on {needs.architecture}, and this node is {has.architecture}"
    if needs.page_size and has.page_size and needs.page_size != has.page_size:
        return f"it has pages of {needs.page_size} bytes, and this node of {has.page_size}"
    before, here = _KERNEL.match(needs.kernel), _KERNEL.match(has.kernel)
    if before and here and tuple(map(int, here.groups())) < tuple(map(int, before.groups())):
        return f"it comes from Linux {needs.kernel}, and this node has the older {has.kernel}"
    if needs.criu and has.criu and _version(has.criu) < _version(needs.criu):
        return f"its image is CRIU {needs.criu}'s, and this node has the older {has.criu}"
    if needs.image and has.image and needs.image != has.image:
        return f"it runs the image {needs.image}, and this pod {has.image}"
    if has.cpu_features and (missing := sorted(set(needs.cpu_features) - set(has.cpu_features))):
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        return f"this node's CPU lacks {', '.join(missing[:_SHOWN])}{more}"
    return ""


def as_object(needs: Needs) -> Object:
    """Return what a Migration says of it."""
    made: Object = {
        "architecture": needs.architecture,
        "kernel": needs.kernel,
        "criu": needs.criu,
        "cpuFeatures": sorted(set(needs.cpu_features))[:MOST_FEATURES],
        "image": needs.image,
        "pageSize": needs.page_size,
    }
    return {name: value for name, value in made.items() if value}


def from_object(told: Mapping[str, Any]) -> Needs:
    """Return what a Migration says; what is not of the kind that it should be counts as absent."""

    def text(name: str) -> str:
        return value if isinstance(value := told.get(name), str) else ""

    features, size = told.get("cpuFeatures"), told.get("pageSize")
    return Needs(
        architecture=text("architecture"),
        kernel=text("kernel"),
        criu=text("criu"),
        image=text("image"),
        cpu_features=[each for each in features if isinstance(each, str)] if isinstance(features, list) else [],
        page_size=size if isinstance(size, int) and 0 < size < 1 << 31 else 0,
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, _NUMBERS.findall(text)[:4]))
