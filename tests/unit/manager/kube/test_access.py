"""TLS with a server on this machine, whose certificates openssl makes, and credentials that are replaced meanwhile."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from zeropod.manager.kube.access import in_cluster
from zeropod.manager.kube.errors import Unreachable

Make = Callable[[str], Path]
"""A self-signed certificate with its key, for an address."""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    count = 0

    def made(address: str) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"{count}.pem"
        options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        name = ["-subj", f"/CN=api-{count}", "-addext", f"subjectAltName=IP:{address}"]
        files = ["-keyout", f"{path}.key", "-out", str(path)]
        subprocess.run([openssl, "req", "-x509", *options, *name, *files], check=True, capture_output=True)
        return path

    return made


@asynccontextmanager
async def serving(certificate: Path) -> AsyncIterator[int]:
    """A server that accepts and says one word; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, f"{certificate}.key")

    async def serve(stream: trio.abc.Stream) -> None:
        with trio.move_on_after(5):
            try:
                await stream.send_all(b"word")
                await stream.receive_some()
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [trio.SSLListener(plain, context)])
        yield plain.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def environment(port: int) -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}


async def test_a_new_authority_holds_for_the_next_connection(make: Make, tmp_path: Path) -> None:
    old, new = make("127.0.0.1"), make("127.0.0.1")
    async with serving(new) as port:
        access = in_cluster(environment(port), tmp_path)
        assert access.host == f"127.0.0.1:{port}"
        shutil.copy(old, tmp_path / "ca.crt")
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await access.connect()
        shutil.copy(new, tmp_path / "ca.crt")
        stream = await access.connect()
        assert await stream.receive_some() == b"word"
        await trio.aclose_forcefully(stream)


async def test_a_certificate_for_another_address_is_refused(make: Make, tmp_path: Path) -> None:
    certificate = make("127.0.0.2")
    shutil.copy(certificate, tmp_path / "ca.crt")
    async with serving(certificate) as port:
        with pytest.raises(Unreachable, match="IP address mismatch"):
            await in_cluster(environment(port), tmp_path).connect()


async def test_without_a_server_or_an_authority_there_is_no_connection(tmp_path: Path) -> None:
    with trio.socket.socket() as closed:
        await closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        access = in_cluster(environment(port), tmp_path)
        with pytest.raises(Unreachable, match="cannot be reached"):
            await access.connect()
        closed.listen()
        with pytest.raises(Unreachable, match="No such file"):
            await access.connect()


def test_a_token_is_read_anew_each_time(tmp_path: Path) -> None:
    access = in_cluster(environment(443), tmp_path)
    with pytest.raises(Unreachable, match="token cannot be read"):
        access.token()
    for token in ("one", "two"):
        (tmp_path / "token").write_text(f"{token}\n")
        assert access.token() == token


@pytest.mark.parametrize("wrong", [{}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}])
def test_outside_of_a_pod_there_is_no_access(wrong: dict[str, str]) -> None:
    with pytest.raises(Unreachable, match="not in a pod"):
        in_cluster(wrong)


def test_an_address_of_ipv6_is_written_as_one() -> None:
    made = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert made.host == "[fd00::1]:443"
