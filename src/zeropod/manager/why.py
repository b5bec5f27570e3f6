"""`zeropod why`: shows everything that keeps a container awake or out of COLD, and what to do about it."""

import json
from typing import Any

from zeropod import shims
from zeropod.manager import commands
from zeropod.manager.find import name
from zeropod.manager.ps import as_dict, state_of
from zeropod.rpc.messages.status_pb2 import WhyRequest, WhyResponse
from zeropod.shims import Found


def main(arguments: list[str]) -> int:
    parser = commands.parser("why", __doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as `zeropod ps --json` has them")
    options = parser.parse_args(arguments)
    show = as_json if options.json else as_text

    async def ask(found: Found) -> str:
        request = WhyRequest(id=found.status.id)
        return show(await shims.call(found.path, "Why", request, WhyResponse, shims.PATIENCE))

    return commands.run("why", options.id, ask)


def as_text(answer: WhyResponse) -> str:
    """Return the reasons, one per line, each followed by its remedy."""
    lines = [f"{name(answer.status)}: {state_of(answer.status)}"]
    for reason in answer.reasons:
        lines.append(f"  {reason.kind:<10}  {reason.text}")
        if reason.remedy:
            lines.append(f"  {'':<10}  > {reason.remedy}")
    return "\n".join(lines)


def as_json(answer: WhyResponse) -> str:
    reasons: list[dict[str, Any]] = [
        {"kind": reason.kind, "text": reason.text, "remedy": reason.remedy or None} for reason in answer.reasons
    ]
    return json.dumps({**as_dict(answer.status), "reasons": reasons})
