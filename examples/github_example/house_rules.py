"""The house's own policies. `policies.yaml` loads this file by `plugins: {files: [./house_rules.py]}`."""

from __future__ import annotations

import re
from typing import Any

from mcp_macaroon_middleware import PolicyViolationError, policy_enforcer
from mcp_macaroon_middleware.plugin import Check, Params, Verdict, enforcer


class Repositories(Params):
    """The repositories that a rule names: `owner/name`, spelt out."""

    repositories: tuple[str, ...]


@enforcer("repo_allowlist", params=Repositories)
def repo_allowlist(check: Check[Repositories]) -> Verdict:
    """The call's argument `repo` is one of the repositories that the rule names."""
    repo = check.request.arguments.get("repo")
    if isinstance(repo, str) and repo.lower() in {name.lower() for name in check.params.repositories}:
        return Verdict.allow()
    return check.refuse("foreign_repository", "This server may not write to that repository.")


@policy_enforcer("ticket_required")
def ticket_required(context: Any, *prefixes: str) -> list[str]:
    """The call's argument `ticket` is a ticket of one of the rule's queues. Written as the original documents it."""
    ticket = str(context.arguments.get("ticket", ""))
    if not any(re.fullmatch(rf"{re.escape(prefix)}-[0-9]+", ticket) for prefix in prefixes):
        raise PolicyViolationError("Name the ticket that asks for this, such as OPS-12.", code="ticket_missing")
    return []
