"""A context for h2's HTTP/2 connections that breaks their reference cycles.

A connection refers to itself, and waits for the garbage collector. A shim collects rarely, and would hold hundreds of
them, of ten kilobytes each.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import H2Error
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError

MALFORMED = (H2Error, HPACKError, HyperframeError)
"""What is raised for bytes that are not HTTP/2."""


@contextmanager
def server() -> Iterator[H2Connection]:
    """Yield a server's connection, initiated, with headers as bytes. Raises h2's exceptions. Not usable after the
    block."""
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    try:
        yield connection
    finally:
        vars(connection).clear()
