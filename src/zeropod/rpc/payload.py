"""Protobuf payloads: decoding untrusted bytes, with a single error type, and containerd's `Any`s, whose type URLs are
bare names."""

from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from zeropod.rpc.status import Code, RpcError

AnyMessage = TypeVar("AnyMessage", bound=Message)


def decode(message_type: type[AnyMessage], payload: bytes) -> AnyMessage:
    """Return the message in `payload`. Raises RpcError INVALID_ARGUMENT if it is not one of this type."""
    message = message_type()
    try:
        message.ParseFromString(payload)
    except (DecodeError, ValueError, RecursionError) as error:
        # protobuf's pure Python decoder raises ValueErrors (UnicodeDecodeError) where the compiled one raises
        # DecodeError.
        name = message_type.DESCRIPTOR.full_name
        raise RpcError(Code.INVALID_ARGUMENT, f"{len(payload)} bytes are not a {name}: {error}") from error
    return message


def pack(message: Message) -> Any:
    """Return an Any with the message, as containerd expects it.

    Protobuf's own Any.Pack puts "type.googleapis.com/" before the name; containerd's typeurl.Is compares
    whole URLs and has the bare name, so it would not recognise its own metrics.
    """
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def unpack(packed: Any, message_type: type[AnyMessage]) -> AnyMessage | None:
    """Return the message in an Any, None if it holds another type.

    Takes type URLs with and without a prefix. Raises RpcError INVALID_ARGUMENT if it cannot be decoded.
    """
    if packed.type_url.rpartition("/")[2] != message_type.DESCRIPTOR.full_name:
        return None
    return decode(message_type, packed.value)
