"""Fills containerd's metrics messages from plain values.

The readers of v1 and v2 collect nested dictionaries with the messages' field names. Names that the message
does not have are ignored: kernels report more than containerd's messages carry.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from google.protobuf.message import Message

Value: TypeAlias = "int | float | str | Values | Sequence[int | Values]"
Values: TypeAlias = "Mapping[str, Value]"


def fill(message: Message, values: Values) -> None:
    """Set `message`'s fields; a mapping makes its message field present, even if it is empty."""
    for name, value in values.items():
        if name not in message.DESCRIPTOR.fields_by_name:
            continue
        if isinstance(value, Mapping):
            part = getattr(message, name)
            part.SetInParent()
            fill(part, value)
        elif isinstance(value, int | float | str):
            setattr(message, name, value)
        else:
            for item in value:
                if isinstance(item, Mapping):
                    fill(getattr(message, name).add(), item)
                else:
                    getattr(message, name).append(item)
