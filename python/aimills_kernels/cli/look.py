"""`env` and `ops`: what is here."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from aimills_kernels.cli import _ui
from aimills_kernels.cli._errors import OK


def env(options: Namespace) -> int:
    from aimills_kernels.harness.env import stamp

    facts = stamp()
    if options.json:
        print(json.dumps(facts, indent=1))
    else:
        _ui.table("", ("fact", "value"), flatten(facts))
    return OK


def flatten(facts: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows; what is null is named by its reason elsewhere and left out."""
    if isinstance(facts, dict):
        items: Any = facts.items()
    elif isinstance(facts, list) and any(isinstance(f, dict) for f in facts):
        items = enumerate(facts)
    elif isinstance(facts, list):
        return [(prefix, "\n".join(map(str, facts)))] if facts else []
    else:
        return [] if facts is None else [(prefix, str(facts))]
    rows: list[tuple[str, str]] = []
    for key, value in items:
        rows += flatten(value, f"{prefix} {key}".strip())
    return rows


def ops(options: Namespace) -> int:
    from aimills_kernels.cli import _choose

    found = _choose.ops()
    if options.json:
        print(json.dumps([_as_dict(op) for op in found], indent=1))
        return OK
    for op in found:
        _ui.say(f"\n{op.name}", "bold")
        _ui.say(f"  {op.name}{op.schema}")
        _ui.say(f"  {len(op.cases)} cases: {', '.join(c.name for c in op.cases)}")
        rows = [
            (p.name, " and ".join(p.devices), _sm(p), _whose(p), ", ".join(p.needs) or "-")
            for p in op.all_providers
        ]
        _ui.table("", ("provider", "runs on", "made for", "whose", "needs"), rows)
    return OK


def _sm(provider: Any) -> str:
    return ", ".join(f"sm_{sm}" for sm in provider.sm) or "any"


def _whose(provider: Any) -> str:
    if provider.name == "reference":
        return "the reference"
    return "a vendor's" if provider.vendor else "ours"


def _as_dict(op: Any) -> dict[str, Any]:
    return {
        "name": op.name,
        "schema": f"{op.name}{op.schema}",
        "outputs": list(op.outputs),
        "cases": [
            {"name": c.name, "tags": sorted(c.tags), "dims": c.dims, "cpu": c.cpu} for c in op.cases
        ],
        "providers": [
            {"name": p.name, "devices": list(p.devices), "sm": list(p.sm), "vendor": p.vendor,
             "needs": list(p.needs)}
            for p in op.all_providers
        ],
    }  # fmt: skip
