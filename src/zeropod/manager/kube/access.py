"""How to reach the API server: its address, its certificate authority, and a token.

Tokens and authorities of pods are replaced on disk while they run, so they are read when needed: the token for each
request, the authority for each connection.
"""

import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import trio

from zeropod.manager.kube.errors import Unreachable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The directory of a pod's credentials, provided by the kubelet."""

KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
"""Keep-alive options: seconds, a count, and milliseconds for the server to acknowledge data; a vanished server is
noticed after half a minute. By name, because kubectl's plugin also runs on systems that lack some: macOS has the first
under the second name."""


class Access(Protocol):
    """Connections to one API server."""

    @property
    def host(self) -> str:
        """Return the value of a request's Host header."""

    async def connect(self) -> trio.abc.Stream:
        """Return a new connection. Raises Unreachable."""

    def token(self) -> str:
        """Return the token for the next request, empty for none. Raises Unreachable."""


@dataclass(frozen=True, slots=True)
class TlsAccess:
    """Over TCP and TLS."""

    address: str
    port: int
    context: Callable[[], ssl.SSLContext]
    """Called for each connection."""
    read_token: Callable[[], str] = lambda: ""
    """Called for each request."""
    server_name: str = ""
    """The name in the server's certificate, if not the address."""

    @property
    def host(self) -> str:
        """Return the value of a request's Host header."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    async def connect(self) -> trio.abc.Stream:
        """Return a new connection with a verified certificate. Raises Unreachable."""
        try:
            plain = await trio.open_tcp_stream(self.address, self.port)
        except OSError as error:
            raise Unreachable(f"the API server cannot be reached: {error}") from error
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if (option := getattr(socket, name, None)) is not None:
                    plain.setsockopt(socket.IPPROTO_TCP, option, value)
            expected = self.server_name or self.address
            # Servers close the connection without TLS's close_notify; HTTP itself marks the end of a response.
            stream = trio.SSLStream(plain, self.context(), server_hostname=expected, https_compatible=True)
            await stream.do_handshake()
        except (OSError, trio.BrokenResourceError) as error:
            await trio.aclose_forcefully(plain)
            raise Unreachable(f"no TLS with the API server: {error.__cause__ or error}") from error
        except BaseException:  # on cancellation, too: close the connection
            await trio.aclose_forcefully(plain)
            raise
        return stream

    def token(self) -> str:
        """Return the current token. Raises Unreachable."""
        try:
            return self.read_token()
        except OSError as error:
            raise Unreachable(f"the token cannot be read: {error}") from error


@lru_cache(1)
def _context(authority: str) -> ssl.SSLContext:
    """Return the TLS context for this authority; the same one until the authority changes."""
    return ssl.create_default_context(cadata=authority)


def in_cluster(environment: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT) -> TlsAccess:
    """Return the access of a pod with a service account. Raises Unreachable without one."""
    address, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not address or not port.isdigit():
        raise Unreachable("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    return TlsAccess(
        address,
        int(port),
        lambda: _context((directory / "ca.crt").read_text(encoding="ascii")),
        lambda: (directory / "token").read_text(encoding="ascii").strip(),
    )
