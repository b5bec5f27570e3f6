"""Payloads from outside, and the Anys that containerd exchanges."""

from contextlib import suppress

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from zeropod.rpc.messages.cgroups_v1_pb2 import Metrics
from zeropod.rpc.messages.runc_options_pb2 import CheckpointOptions, Options
from zeropod.rpc.messages.task_pb2 import CreateTaskRequest, StateResponse, UpdateTaskRequest
from zeropod.rpc.payload import decode, pack, unpack
from zeropod.rpc.status import RpcError

message_types = st.sampled_from([CreateTaskRequest, UpdateTaskRequest, StateResponse, Metrics])


@given(message_types, st.binary(max_size=200))
def test_random_bytes_decode_or_are_an_rpc_error(message_type: type[Message], payload: bytes) -> None:
    with suppress(RpcError):
        decode(message_type, payload)


def test_a_string_that_is_no_utf8_is_an_invalid_argument() -> None:
    with pytest.raises(RpcError, match="INVALID_ARGUMENT: 4 bytes are not a containerd") as info:
        decode(CreateTaskRequest, b"\x0a\x02\xff\xfe")
    assert CreateTaskRequest.DESCRIPTOR.full_name in info.value.message


def test_an_any_is_named_by_the_bare_type_name_as_containerd_compares_it() -> None:
    assert pack(Options(root="/r")).type_url == "containerd.runc.v1.Options"


@pytest.mark.parametrize("prefix", ["", "type.googleapis.com/", "types.containerd.io/"])
def test_an_any_is_unpacked_whatever_the_prefix_of_its_type(prefix: str) -> None:
    packed = pack(Options(root="/r"))
    packed.type_url = prefix + packed.type_url
    assert unpack(packed, Options) == Options(root="/r")


def test_an_any_of_another_type_is_not_unpacked() -> None:
    assert unpack(pack(CheckpointOptions(exit=True)), Options) is None
    assert unpack(Any(), Options) is None
