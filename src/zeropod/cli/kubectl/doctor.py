"""`kubectl zeropod doctor`: what is wrong, on which node, and what to do about it."""

import argparse
import json
from collections.abc import Sequence

from zeropod.cli.kubectl.cluster import Cluster, Object
from zeropod.cli.kubectl.diagnosis import CRD, LABELS, Facts, Finding, Verdict, diagnose
from zeropod.manager.kube.client import path_of
from zeropod.manager.kube.errors import ApiError

WRONG = (Verdict.FAILS, Verdict.UNKNOWN)


async def run(cluster: Cluster, options: argparse.Namespace, _namespace: str, _names: Sequence[str]) -> int:
    """Print the findings. Returns 0 if nothing is wrong; 1 if something is, or could not be checked."""
    findings = diagnose(await gather(cluster))
    print(as_json(findings) if options.output == "json" else report(findings), flush=True)
    return int(any(finding.verdict in WRONG for finding in findings))


async def gather(cluster: Cluster) -> Facts:
    """Read all relevant objects. Raises ApiError if none may be read; single refusals are recorded."""
    unread: dict[str, str] = {}

    async def listed(group_version: str, plural: str, labels: str = "") -> list[Object]:
        query = {"labelSelector": labels} if labels else None
        try:
            path = cluster.prefix + path_of(group_version, plural)
            return (await cluster.client.list(path, lambda each: each, query)).items
        except ApiError as error:
            if error.status != 403:
                raise
            unread[plural] = error.message
            return []

    runtime_classes = await listed("node.k8s.io/v1", "runtimeclasses")
    daemon_sets = await listed("apps/v1", "daemonsets", LABELS)
    pods = await listed("v1", "pods", LABELS)
    nodes = await listed("v1", "nodes")
    crd = None
    try:
        path = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", name=CRD)
        crd = await cluster.client.get(cluster.prefix + path)
    except ApiError as error:
        if error.status == 403:
            unread["customresourcedefinitions"] = error.message
        elif error.status != 404:
            raise
    return Facts(runtime_classes, daemon_sets, pods, nodes, crd, unread)


def report(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, with its remedy below."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.verdict:<5}  {each.subject:<{width}}  {each.text}")
        if each.remedy:
            lines.append(f"{'':<{width + 9}}> {each.remedy}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    made = [
        {"subject": each.subject, "verdict": each.verdict, "found": each.text, "remedy": each.remedy or None}
        for each in findings
    ]
    return json.dumps(made, indent=4)
