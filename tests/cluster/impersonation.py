"""Requests as a manager of any node makes them, for what its rights and the policies of own-pods-only say to them."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any

from tests.cluster.pki import ADMIN

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


def patch_as_a_manager(path: str, node: str, body: Mapping[str, Any], kind: str = STRATEGIC) -> str:
    """What the API server says to a manager of this node; empty if it does as it is told."""
    return ask_as_a_manager("PATCH", path, node, body, kind)


def ask_as_a_manager(method: str, path: str, node: str, body: Mapping[str, Any], kind: str) -> str:
    config = json.loads(ADMIN.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
    tls.load_cert_chain(user["client-certificate"], user["client-key"])
    connection = http.client.HTTPSConnection(cluster["server"].removeprefix("https://"), context=tls, timeout=30)
    headers = {
        "Content-Type": kind,
        "Impersonate-User": "system:serviceaccount:zeropod-system:zeropod-node",
        "Impersonate-Group": "system:serviceaccounts",
        "Impersonate-Extra-authentication.kubernetes.io%2fnode-name": node,
    }
    with contextlib.closing(connection):
        connection.request(method, path, json.dumps(body), headers)
        answer = json.loads(connection.getresponse().read())
    return str(answer["message"]) if answer["kind"] == "Status" else ""
