"""One gRPC connection to containerd's socket, for methods named by path and messages generated without gRPC's plugin.

Owns deadlines and errors: every call ends within its timeout, and a refusal is a `Refused` with containerd's own
words. containerd may be restarted under it: a call that finds no server waits for it.
"""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import grpc  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.message import Message
from tests.integration.patience import patient

ADDRESS = "/run/containerd/containerd.sock"
TIMEOUT = 30.0

_M = TypeVar("_M", bound=Message)


class Refused(Exception):  # noqa: N818 (an answer, as often wanted as not)
    """A call that the server answered with an error, or that nobody answered in time.

    `code` is gRPC's name, such as NOT_FOUND; `message` is the server's text.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Endpoint:
    """`metadata` goes with every call, such as containerd's namespace."""

    def __init__(self, address: str = ADDRESS, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.max_receive_message_length", 64 << 20),
        ]
        self._channel = grpc.insecure_channel(f"unix://{address}", options)
        self._metadata = metadata

    def close(self) -> None:
        self._channel.close()

    def call(self, path: str, request: Message, answer: type[_M], timeout: float = TIMEOUT) -> _M:
        """Call the method with this path, such as /runtime.v1.RuntimeService/Status. Raises Refused."""
        method = self._channel.unary_unary(path, request_serializer=_serialize, response_deserializer=answer.FromString)
        try:
            return _typed(
                method(request, timeout=patient(timeout), metadata=self._metadata, wait_for_ready=True), answer
            )
        except grpc.RpcError as error:
            raise _refused(error) from None

    def stream(self, path: str, request: Message, answer: type[_M], timeout: float | None = None) -> "Stream[_M]":
        """Call a method that answers with many messages."""
        method = self._channel.unary_stream(
            path, request_serializer=_serialize, response_deserializer=answer.FromString
        )
        if timeout is not None:
            timeout = patient(timeout)
        return Stream(method(request, timeout=timeout, metadata=self._metadata, wait_for_ready=True), answer)


class Stream(Generic[_M]):
    """The answers of one call as they come. Raises Refused where the server ends it with an error."""

    def __init__(self, call: Any, answer: type[_M]) -> None:
        self._call = call
        self._answer = answer

    def __iter__(self) -> Iterator[_M]:
        try:
            for message in self._call:
                yield _typed(message, self._answer)
        except grpc.RpcError as error:
            raise _refused(error) from None

    def cancel(self) -> None:
        self._call.cancel()


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _typed(message: object, answer: type[_M]) -> _M:
    assert isinstance(message, answer)
    return message


def _refused(error: Any) -> Refused:
    return Refused(error.code().name, error.details() or "")
