"""The house's own policy. `policies.yaml` loads this file by `plugins: {files: [./house_rules.py]}`."""

from __future__ import annotations

from typing import Any

from mcp_macaroon_middleware import PolicyViolationError, policy_enforcer


@policy_enforcer("small_amount")
def small_amount(context: Any, most: str) -> list[str]:
    """The call's argument `amount` is at most this much."""
    amount = context.arguments.get("amount")
    if not isinstance(amount, int) or not 0 < amount <= int(most):
        raise PolicyViolationError(f"Transfers above {most} need a person's yes.", code="amount_above_limit")
    return []
