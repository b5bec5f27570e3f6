"""The generated modules: they are what the .proto files say, and containerd finds its names in them."""

import importlib.util
from pathlib import Path

import pytest
from google.protobuf.message import Message

from zeropod.rpc import messages
from zeropod.rpc.messages import (
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    events_pb2,
    forward_pb2,
    introspection_pb2,
    process_pb2,
    runc_options_pb2,
    runtimeoptions_pb2,
    status_pb2,
    task_pb2,
    types_pb2,
)

MESSAGES = Path(messages.__file__).parent
GENERATOR = Path(__file__).resolve().parents[3] / "proto" / "generate.py"


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (cgroups_v1_pb2.Metrics, "io.containerd.cgroups.v1.Metrics"),
        (cgroups_v2_pb2.Metrics, "io.containerd.cgroups.v2.Metrics"),
        (events_pb2.TaskCreate, "containerd.events.TaskCreate"),
        (events_pb2.TaskExecAdded, "containerd.events.TaskExecAdded"),
        (forward_pb2.ForwardRequest, "containerd.services.events.ttrpc.v1.ForwardRequest"),
        (introspection_pb2.RuntimeInfo, "containerd.types.RuntimeInfo"),
        (process_pb2.ProcessInfo, "containerd.v1.types.ProcessInfo"),
        (runc_options_pb2.Options, "containerd.runc.v1.Options"),
        (runc_options_pb2.ProcessDetails, "containerd.runc.v1.ProcessDetails"),
        (runtimeoptions_pb2.Options, "runtimeoptions.v1.Options"),
        (types_pb2.Envelope, "containerd.types.Envelope"),
    ],
)
def test_messages_have_the_names_containerd_knows_them_by(message: type[Message], name: str) -> None:
    assert message.DESCRIPTOR.full_name == name


def test_the_services_have_the_names_they_are_called_by() -> None:
    services = [module.DESCRIPTOR.services_by_name for module in (task_pb2, forward_pb2, status_pb2)]
    assert [service.full_name for module in services for service in module.values()] == [
        "containerd.task.v3.Task",
        "containerd.services.events.ttrpc.v1.Events",
        "zeropod.v1.Status",
    ]


def test_a_create_request_from_containerd_decodes() -> None:
    # What containerd 2.1 sends, cut down to one field of each kind.
    data = b'\n\x02r1\x12\x02/b\x1a\x10\n\x07overlay"\x05index \x01R\x1e\n\x1acontainerd.runc.v1.Options\x12\0'
    request = task_pb2.CreateTaskRequest.FromString(data)
    assert (request.id, request.bundle, request.terminal) == ("r1", "/b", True)
    assert [(mount.type, list(mount.options)) for mount in request.rootfs] == [("overlay", ["index"])]
    assert request.options.type_url == "containerd.runc.v1.Options"


def test_the_committed_modules_are_what_the_proto_files_generate(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    spec = importlib.util.spec_from_file_location("generate", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    generator.generate(tmp_path)

    def contents(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.glob("*_pb2.py*")}

    assert contents(MESSAGES) == contents(tmp_path)
