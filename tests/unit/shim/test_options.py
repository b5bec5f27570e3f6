"""The runtime's options, in both forms in which containerd sends them."""

from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from zeropod.rpc.messages import runc_options_pb2, runtimeoptions_pb2
from zeropod.rpc.payload import pack
from zeropod.rpc.status import Code, RpcError
from zeropod.shim.options import from_toml, read


def cri(body: str = "", path: str = "") -> Any:
    """As the CRI plugin sends the section of a runtime type that is not runc's."""
    return pack(runtimeoptions_pb2.Options(config_body=body.encode(), config_path=path))


def test_runcs_own_message_is_taken_as_it_is() -> None:
    options = runc_options_pb2.Options(binary_name="crun", systemd_cgroup=True)
    assert read(pack(options)) == options


def test_the_section_of_the_configuration_means_the_same() -> None:
    body = 'SystemdCgroup = true\nBinaryName = "/usr/local/sbin/runc"\nNoPivotRoot = false\nIoUid = 7\nRoot = "/r"\n'
    expected = runc_options_pb2.Options(systemd_cgroup=True, binary_name="/usr/local/sbin/runc", io_uid=7, root="/r")
    assert read(cri(body)) == expected


def test_a_file_is_read_where_containerd_names_one(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text("SystemdCgroup = true\n")
    assert read(cri(path=str(path))).systemd_cgroup
    with pytest.raises(RpcError, match="No such file"):
        read(cri(path=str(tmp_path / "nothing")))


@pytest.mark.parametrize("nothing", [Any(), cri(), Any(type_url="somebody.else/Options", value=b"x")])
def test_without_options_everything_is_as_usual(nothing: Any) -> None:
    assert read(nothing) == runc_options_pb2.Options()


def test_an_option_of_a_newer_containerd_is_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert from_toml(b"Sparkle = 1\nSystemdCgroup = true\n").systemd_cgroup
    assert "Sparkle is unknown" in caplog.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("SystemdCgroup =", "no TOML"),
        ("\xff", "no TOML"),
        ('SystemdCgroup = "yes"', "SystemdCgroup cannot be 'yes'"),
        ("IoUid = -1", "IoUid cannot be -1"),
        ("BinaryName = 5", "BinaryName cannot be 5"),
        ("[BinaryName]\na = 1", "BinaryName cannot be"),
    ],
)
def test_what_is_wrong_is_named(body: str, said: str) -> None:
    with pytest.raises(RpcError, match=said) as refused:
        from_toml(body.encode("latin-1"))
    assert refused.value.code is Code.INVALID_ARGUMENT


@given(st.binary())
def test_no_bytes_get_past_it_but_as_options_or_a_refusal(body: bytes) -> None:
    with suppress(RpcError):
        assert isinstance(from_toml(body), runc_options_pb2.Options)
