"""Calls that the shims of any node make of its manager, made from the manager's own container."""

import base64
import json
from typing import Any

from google.protobuf.json_format import MessageToDict, Parse
from tests.cluster.kube import Api, kubectl
from tests.integration.patience import patient

from zeropod.rpc.messages import node_pb2

_CALL = """
import base64, sys, trio
from zeropod.rpc.client import open_client
from zeropod.rpc.messages import node_pb2
method, request, answer = sys.argv[1:]
async def main():
    asked = getattr(node_pb2, request).FromString(base64.b64decode(sys.stdin.read()))
    async with open_client("/run/zeropod/n/node.sock") as client:
        got = await client.call("zeropod.node.v1.Node", method, asked, getattr(node_pb2, answer), timeout=100)
    print(base64.b64encode(got.SerializeToString()).decode())
trio.run(main)
"""


def manager_of(api: Api, node: str) -> str:
    """The pod of a node's manager."""
    pods = api.get("pods", namespace="zeropod-system", query=f"?fieldSelector=spec.nodeName%3D{node}")["items"]
    (name,) = [each["metadata"]["name"] for each in pods if each["metadata"]["name"].startswith("zeropod-node-")]
    return str(name)


def call(api: Api, node: str, method: str, **fields: Any) -> dict[str, Any]:
    """What a node's manager answers to a shim, in the words of proto/zeropod/v1/node.proto."""
    request = Parse(json.dumps(fields), getattr(node_pb2, f"{method}Request")())
    names = (method, f"{method}Request", f"{method}Response")
    said = _run(api, node, _CALL, *names, stdin=base64.b64encode(request.SerializeToString()).decode())
    answer = getattr(node_pb2, names[2]).FromString(base64.b64decode(said))
    made: dict[str, Any] = MessageToDict(answer, preserving_proto_field_name=True)
    return made


def _run(api: Api, node: str, code: str, *arguments: str, stdin: str = "") -> str:
    command = ["exec", "-i", "-n", "zeropod-system", "-c", "manager", manager_of(api, node), "--"]
    command += ["env", "PYTHONPATH=/zeropod/bin/zeropod.pyz", "/usr/bin/python3", "-c", code, *arguments]
    return kubectl(*command, stdin=stdin, timeout=patient(120))
