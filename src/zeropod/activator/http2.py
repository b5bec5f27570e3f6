"""An HTTP/2 connection of h2's that does not outlive its use.

It refers to itself, and would wait for the collector: a shim, which rarely looks for garbage, would hold hundreds of
them by then, of ten kilobytes each.
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
    """A server's end, begun, with headers as bytes; of no use after the context, which raises what h2 raises."""
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    try:
        yield connection
    finally:
        vars(connection).clear()
